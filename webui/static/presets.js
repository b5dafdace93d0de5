// System prompts that are kept under a name, at the box of the system prompt; and the conversation's own, restored.
import { call, get } from "./api.js";
import { conversationPath, currentConversation, onConversation } from "./conversation.js";
import { confirmed, keepEscape, placeMenu, withArrows } from "./dialog.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { subscribe } from "./state.js";
import { html, nothing, render } from "./vendor/lit-html.js";

const TYPING_MS = 800;
const view = { presets: null, error: "", name: "" };
let typing = null;

const field = () => document.querySelector("#system-prompt textarea");
export const systemPrompt = () => field()?.value ?? "";
const menu = () => document.getElementById("preset-menu");
const presetPath = (name) => `/api/presets/${encodeURIComponent(name)}`;

async function guarded(work) {
  view.error = "";
  try {
    await work();
    view.presets = await get("/api/presets");
  } catch (error) {
    view.error = error.message;
  }
  draw();
}

function use(preset) {
  window.deck.set("system", preset.text);
  keepWith(preset.text);
  menu()?.hidePopover();
}

function save(event) {
  event.preventDefault();
  const name = view.name.trim();
  if (!name) return;
  guarded(async () => {
    await call("PUT", presetPath(name), { name, text: systemPrompt() });
    view.name = "";
  });
}

async function remove({ name }) {
  menu()?.hidePopover(); // it would lie over the question
  if (await confirmed(t("delete_preset", { name }), t("delete"))) await guarded(() => call("DELETE", presetPath(name)));
}

const entry = (preset) => html`<div class="preset">
  <button role="menuitemradio" aria-checked=${preset.text === systemPrompt()} title=${preset.text} @click=${() => use(preset)}>
    ${preset.name}
  </button>
  <button class="icon danger" title=${t("delete")} aria-label="${t("delete")}: ${preset.name}" @click=${() => remove(preset)}>${icon("bin")}</button>
</div>`;

function entries() {
  if (!view.presets) return view.error ? nothing : html`<p class="cap">${t("loading")}</p>`;
  if (!view.presets.length) return html`<p class="cap">${t("no_presets")}</p>`;
  return view.presets.map(entry);
}

function saveForm() {
  const isThere = view.presets?.some(({ name }) => name === view.name.trim());
  const onInput = ({ target }) => {
    view.name = target.value;
    draw();
  };
  return html`<form @submit=${save}>
    <input maxlength="100" placeholder=${t("preset_name")} aria-label=${t("preset_name")} .value=${view.name} @input=${onInput} />
    <button class="btn small" ?disabled=${!view.name.trim()}>${isThere ? t("replace") : t("save")}</button>
  </form>`;
}

function draw() {
  const box = document.getElementById("system-presets");
  if (!box) return;
  const onToggle = (event) => {
    placeMenu(event, document.getElementById("preset-button"));
    if (event.newState === "open") guarded(() => {});
  };
  const onKey = (event) => {
    keepEscape(event);
    withArrows(event, "[role=menuitemradio]");
  };
  render(
    html`<button type="button" id="preset-button" class="link cap" popovertarget="preset-menu" aria-haspopup="menu">
        ${t("presets")} ▾
      </button>
      <div id="preset-menu" class="deck-menu" popover @toggle=${onToggle} @keydown=${onKey}>
        <div role="menu" aria-label=${t("presets")}>${entries()}</div>
        <hr />
        <p class="cap">${t("preset_save_info")}</p>
        ${saveForm()} ${view.error ? html`<p class="cap bad" role="alert">${view.error}</p>` : nothing}
      </div>`,
    box,
  );
}

// The conversation's own system prompt comes back with it; a new one begins with what is there.
function restore(what) {
  const { systemPrompt: own, turns } = currentConversation();
  if (what === "opened" && turns.length && own != null && own !== systemPrompt()) window.deck.set("system", own);
}

// What is typed belongs to the conversation from then on, also where nothing is asked after it.
function keepWith(text) {
  clearTimeout(typing);
  const { id, turns } = currentConversation();
  if (!turns.length) return; // the first question brings it
  typing = setTimeout(() => call("PATCH", conversationPath(id), { system_prompt: text }).catch(() => {}), TYPING_MS);
}

export function startPresets() {
  subscribe(draw); // Gradio may make the place to draw in later
  onConversation(restore);
  document.addEventListener("input", ({ target }) => target === field() && keepWith(target.value));
}
