// The sliders show the picked model's own recommended values until somebody moves one.
import { get, modelPath } from "./api.js";
import { server, state, subscribe } from "./state.js";

let shownFor = "";

async function show(name) {
  const { sampling, context_length: fromConfig } = await get(modelPath(name));
  if (name !== state.model) return;
  const context = server(name)?.max_model_len ?? fromConfig;
  const updates = Object.entries(sampling).map(([field, value]) => {
    if (field !== "max_tokens" || !context) return { __type__: "update", value };
    return { __type__: "update", value: Math.min(value, context), maximum: context };
  });
  window.deck.set("sampling", ...updates);
}

// Again when the model gets ready: only then its context, and for a fresh download its recommendation, are known.
export function modelDefaults() {
  subscribe(() => {
    const key = `${state.model} ${server(state.model)?.max_model_len}`;
    if (!state.model || key === shownFor) return;
    shownFor = key;
    show(state.model).catch(() => (shownFor = ""));
  });
  document.addEventListener("click", (event) => {
    if (event.target.id === "sampling-reset" && state.model) show(state.model);
  });
}
