// The smoke test: four short prompts to a server, its answers, and whether they make sense.
import { post, serverPath } from "./api.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { redraw } from "./load_state.js";
import { html, nothing } from "./vendor/lit-html.js";

const test = { model: "", busy: false, found: null, error: "" };

export async function ask(model) {
  if (test.busy) return;
  Object.assign(test, { model, busy: true, found: null, error: "" });
  redraw();
  try {
    test.found = await post(serverPath(model, "/smoke"));
  } catch (error) {
    test.error = error.message;
  }
  test.busy = false;
  redraw();
}

function close() {
  test.model = "";
  redraw();
}

const answer = ({ prompt, text, ok, reasons }) => html`<li class=${ok ? "" : "odd"}>
  <b>${prompt}</b>${text == null ? nothing : html`<span>${text}</span>`}
  ${reasons.map((reason) => html`<div class="bad">${reason}</div>`)}
</li>`;

const facts = ({ seconds, perplexity }) =>
  [`${seconds.toFixed(1)} s`, perplexity?.prompt != null && t("load_smoke_perplexity", { n: perplexity.prompt.toFixed(1) })].filter(Boolean).join(" · ");

export function smokeView() {
  if (!test.model) return nothing;
  const { found } = test;
  return html`<section class="deck-card deck-pad load-smoke" id="load-smoke-test" role="status">
    <div class="load-chart-head"><h3>${t("load_smoke_test")} · ${test.model}
        ${found ? html`<span class="chip chip-${found.verdict === "pass" ? "ready" : "failed"}">${t(`load_smoke_${found.verdict}`)}</span>` : nothing}</h3>
      <span>${test.busy ? nothing : html`<button class="icon" title=${t("close")} aria-label=${t("close")} @click=${close}>${icon("remove")}</button>`}</span></div>
    ${test.busy ? html`<p class="cap">${t("load_smoke_asking")}</p>` : nothing}
    ${test.error ? html`<div class="banner bad" role="alert">${test.error}</div>` : nothing}
    ${found
      ? html`${found.reasons.map((reason) => html`<div class="banner bad" role="alert">${reason}</div>`)}
          <ul>${found.prompts.map(answer)}</ul><p class="cap">${facts(found)}</p>
          ${(found.not_judged ?? []).map((note) => html`<p class="cap">${note}</p>`)}`
      : nothing}
  </section>`;
}
