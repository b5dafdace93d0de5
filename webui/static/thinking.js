// The switch for a model that can answer with and without thinking first. Beside what its authors recommend for each,
// it says nothing until somebody has chosen: the model's own template then decides.
import { abilitiesOf } from "./abilities.js";
import { t } from "./i18n.js";
import { moveChoice } from "./segments.js";
import { state } from "./state.js";
import { html, nothing, render } from "./vendor/lit-html.js";

const chosen = new Map(); // by model: true, false; nothing: the template's own

const thinking = (model) => abilitiesOf(model)?.thinking;

// For the request: null where the template decides.
export const thinkingChoice = (model) => (thinking(model)?.switch ? (chosen.get(model) ?? null) : null);

// What the model's authors recommend for the mode that is chosen; by request field.
export function recommendedForMode(model) {
  const { recommended } = thinking(model) ?? {};
  const mode = thinkingChoice(model);
  return (mode == null ? null : recommended?.[mode ? "on" : "off"]) ?? {};
}

// `changed()` is called when another mode is chosen.
export function drawThinking(changed) {
  const place = document.getElementById("thinking-switch");
  if (!place) return;
  const model = state.model;
  const choose = (value) => {
    if (value == null) chosen.delete(model);
    else chosen.set(model, value);
    drawThinking(changed);
    changed();
  };
  const now = thinkingChoice(model);
  const option = (value, label) =>
    html`<button type="button" role="radio" aria-checked=${now === value} tabindex=${now === value ? 0 : -1}
      @click=${() => choose(value)}>${label}</button>`;
  render(
    thinking(model)?.switch
      ? html`<span id="thinking-label">${t("thinking")}</span><span class="segments" role="radiogroup" aria-labelledby="thinking-label" title=${t("thinking_info")} @keydown=${moveChoice}
          >${option(null, t("thinking_auto"))}${option(true, t("thinking_on"))}${option(false, t("thinking_off"))}</span>`
      : nothing,
    place,
  );
}
