// The sliders show the picked model's own recommended values, except for those that somebody has moved. What the model
// can do besides (think, see) comes with them.
import { setAbilities } from "./abilities.js";
import { get, modelPath } from "./api.js";
import { server, state, subscribe } from "./state.js";
import { drawThinking, recommendedForMode } from "./thinking.js";

const moved = new Set();
let known = null; // what the app says of the model that is shown
let updates = {};
let shownModel = null;
let shownFor = "";
let unknown = null; // the model of which the app could not say anything just now
const listeners = new Set();

// Whether the model's own values are known, or cannot be; `onDefaults` listeners are called when that changes.
export const hasDefaults = (name) => known?.name === name || unknown === name;
export const onDefaults = (listener) => listeners.add(listener);

// What the sliders show of this model's own values, by request field: Gradio may not have taken them yet.
export function shownDefaults(name) {
  if (known?.name !== name || shownModel !== name) return {};
  return Object.fromEntries(Object.entries(updates).filter(([, { value }]) => value !== undefined).map(([field, { value }]) => [field, value]));
}

async function show(name) {
  const found = await get(modelPath(name));
  setAbilities(name, found.abilities);
  if (name !== state.model) return;
  known = found;
  drawThinking(showValues);
  showValues();
}

async function load(name) {
  try {
    await show(name);
  } catch {
    shownFor = ""; // again with the next snapshot
    unknown = name;
  }
  for (const listener of listeners) listener();
}

// Those for the mode that is chosen now.
function showValues() {
  if (!known || known.name !== state.model) return;
  const { context_length: fromConfig, max_tokens_limit: limit } = known;
  const context = Math.min(server(known.name)?.max_model_len ?? fromConfig ?? limit, limit);
  updates = {};
  for (const [field, value] of Object.entries({ ...known.sampling, ...recommendedForMode(known.name) })) {
    if (!(field in known.sampling)) continue; // the page has no slider for it
    const update = (updates[field] = { __type__: "update", value });
    if (field === "max_tokens" && context) Object.assign(update, { maximum: context, value: Math.min(value, context) });
    if (moved.has(field)) delete update.value;
  }
  window.deck.set("sampling", ...Object.values(updates));
}

// Again when the model gets ready: only then its context, and for a fresh download its recommendation, are known.
export function modelDefaults() {
  subscribe(() => {
    drawThinking(showValues);
    const key = `${state.model} ${server(state.model)?.max_model_len}`;
    if (!state.model || key === shownFor) return;
    shownFor = key;
    if (state.model !== shownModel) moved.clear();
    shownModel = state.model;
    load(state.model);
  });
  document.addEventListener("input", ({ target }) => {
    const control = target.closest?.("[id^=sampling-]");
    if (!control) return;
    const field = control.id.replace("sampling-", "");
    moved.add(field);
    delete updates[field]?.value; // Gradio may not have taken it yet
  });
  document.addEventListener("click", ({ target }) => {
    if (target.id !== "sampling-reset" || !state.model) return;
    moved.clear();
    load(state.model);
  });
}
