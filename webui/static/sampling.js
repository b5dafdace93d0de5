// The sliders show the picked model's own recommended values, except for those that somebody has moved.
import { get, modelPath } from "./api.js";
import { server, state, subscribe } from "./state.js";

const moved = new Set();
let shownModel = null;
let shownFor = "";

async function show(name) {
  const { sampling, context_length: fromConfig } = await get(modelPath(name));
  if (name !== state.model) return;
  const context = server(name)?.max_model_len ?? fromConfig;
  const updates = Object.entries(sampling).map(([field, value]) => {
    const update = { __type__: "update" };
    if (field === "max_tokens" && context) Object.assign(update, { maximum: context, value: Math.min(value, context) });
    else update.value = value;
    if (moved.has(field)) delete update.value;
    return update;
  });
  window.deck.set("sampling", ...updates);
}

// Again when the model gets ready: only then its context, and for a fresh download its recommendation, are known.
export function modelDefaults() {
  subscribe(() => {
    const key = `${state.model} ${server(state.model)?.max_model_len}`;
    if (!state.model || key === shownFor) return;
    shownFor = key;
    if (state.model !== shownModel) moved.clear();
    shownModel = state.model;
    show(state.model).catch(() => (shownFor = ""));
  });
  document.addEventListener("input", ({ target }) => {
    const control = target.closest?.("[id^=sampling-]");
    if (control) moved.add(control.id.replace("sampling-", ""));
  });
  document.addEventListener("click", ({ target }) => {
    if (target.id !== "sampling-reset" || !state.model) return;
    moved.clear();
    show(state.model).catch(() => (shownFor = "")); // then with the next snapshot
  });
}
