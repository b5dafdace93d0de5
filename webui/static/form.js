// The form of a model's file. The app makes the YAML and the command of it; here the fields are only carried.
import { call, get, modelPath, post } from "./api.js";
import { t } from "./i18n.js";
import { refresh, state } from "./state.js";
import { html, nothing, render } from "./vendor/lit-html.js";

// In the order of the fields in tabs/servers.py.
const FIELDS = [
  "name", "model", "source", "mirror", "served-model-name", "max-model-len", "tensor-parallel-size",
  "gpu-memory-utilization", "dtype", "quantization", "chat-template", "restarts", "switchable", "sleep_after", "stop_after",
  "trust-remote-code", "other_flags",
];
const OURS = ["restarts", "switchable", "sleep_after", "stop_after"]; // not vLLM's: they become variables
const PLAIN = new Set(["name", "model", "source", "mirror", ...OURS, "other_flags"]);
const PATIENCE_MS = 500; // for Gradio to tell what stands in the fields
const drafts = new Map(); // by model: what was typed into its form and not saved
let env = {}; // variables of the model that is shown: the form has no field for them, but keeps them
let basedOn = ""; // the model whose values the masked ones are
let picked = ""; // the model whose form this is
let edited = false; // since the form was filled
let isDraft = false; // what it was filled with
let latest = null; // the values as far as Gradio has told them
let tellValues = null;
let shown = {};
const word = { message: "", bad: false, outdated: true }; // the last thing said: it stands until something is changed
let typing = null;
let asked = 0;
let loads = 0;

function bodyOf(values) {
  const found = Object.fromEntries(FIELDS.map((field, i) => [field, values[i]]));
  const options = {};
  for (const field of FIELDS)
    if (!PLAIN.has(field) && found[field] != null && found[field] !== "" && found[field] !== false)
      options[field] = found[field];
  const { name, model, source, mirror, other_flags } = found;
  const ours = Object.fromEntries(OURS.map((field) => [field, found[field] === "" ? null : found[field]]));
  return [(name ?? "").trim(), { model: (model ?? "").trim(), source, mirror: mirror ?? "", other_flags: other_flags ?? "", ...ours, options, env, based_on: basedOn }];
}

// Gradio may be a moment behind with what has just been typed.
function asTyped(values) {
  const boxes = { name: "form-name", model: "form-model", other_flags: "form-other" };
  const box = (field) => boxes[field] && document.querySelector(`#${boxes[field]} :is(input, textarea)`);
  return FIELDS.map((field, i) => box(field)?.value ?? values[i]);
}

function show(found) {
  const { message, bad = false } = (shown = found);
  if (message) Object.assign(word, { message, bad, outdated: false });
  draw();
}

// Again when the tab is opened: until then Gradio has not made the places to draw in.
function draw() {
  const { warnings = [], command_lines: command = "", path = null, shipped = true } = shown;
  offerSplits(shown.split_choices ?? []);
  const note = document.getElementById("form-message");
  const line = document.getElementById("form-command");
  if (note)
    render(
      html`${isDraft ? draftBanner() : nothing}
        ${word.outdated ? nothing : html`<div class=${word.bad ? "banner bad" : "banner"} role="status">${word.message}</div>`}
        ${warnings.map((warning) => html`<div class="banner warn">${warning}</div>`)}`,
      note,
    );
  if (line)
    render(
      command
        ? html`<div class="cap">${path ? (shipped ? t("file_shipped") : path) : t("file_new")}</div><pre class="log short">${command}</pre>`
        : nothing,
      line,
    );
}

// Over how many GPUs the model can be split: what the browser suggests as one types.
function offerSplits(choices) {
  const input = document.querySelector("#form-split input");
  if (!input) return;
  input.setAttribute("list", "split-choices");
  input.placeholder = choices.join(" / ");
  let list = document.getElementById("split-choices");
  if (!list) document.body.append((list = Object.assign(document.createElement("datalist"), { id: "split-choices" })));
  list.replaceChildren(...choices.map((value) => Object.assign(document.createElement("option"), { value })));
}

const draftBanner = () =>
  html`<div class="banner">${t("draft_back")} <button class="btn small" @click=${discard}>${t("discard")}</button></div>`;

function fill(found, source = "") {
  fillWith({ values: FIELDS.map((field) => found.fields[field] ?? null), env: found.env, basedOn: source });
}

function fillWith(content) {
  ({ env, basedOn, values: latest } = content);
  window.deck.set("form", ...latest);
}

// What stands in the fields now.
function values() {
  return new Promise((tell) => {
    tellValues = (now) => {
      tellValues = null;
      tell(now);
    };
    setTimeout(() => tellValues?.(latest), PATIENCE_MS);
    window.deck.fire.form_values();
  });
}

async function putAside() {
  if (!edited) return;
  clearTimeout(typing);
  drafts.set(picked, { values: await values(), env, basedOn });
}

function discard() {
  drafts.delete(picked);
  edited = false;
  form.load(picked);
}

function done(name) {
  for (const model of [picked, name]) drafts.delete(model);
  edited = isDraft = false;
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    show({ message: error.message, bad: true });
  }
}

export const form = {
  load: (name) =>
    guarded(async () => {
      const mine = ++loads;
      word.outdated = true;
      await putAside();
      const found = await get(modelPath(name));
      if (mine !== loads) return; // another one was picked meanwhile
      if (!found.fields) return show({ message: t("attached_no_file") });
      const draft = drafts.get(name);
      picked = name;
      asked++; // no preview of the one before may come now
      edited = isDraft = draft != null;
      if (draft) fillWith(draft);
      else fill(found, name);
      show(found);
      if (draft) form.preview(draft.values);
    }),
  // Without having been asked to: not over what somebody has pasted or typed meanwhile.
  loadFirst(name) {
    if (!loads && !edited) form.load(name);
  },
  // Something was typed or chosen: asks Gradio for the values once nothing more comes.
  changed() {
    edited = word.outdated = true;
    clearTimeout(typing);
    typing = setTimeout(() => window.deck.fire.form_values(), 250);
  },
  preview(now) {
    latest = now;
    if (tellValues) return tellValues(now);
    const mine = ++asked;
    const [name, body] = bodyOf(now);
    if (name && body.model)
      guarded(async () => {
        const found = await post(modelPath(name, "/preview"), body);
        if (mine === asked) show(found);
      });
  },
  save: (values) =>
    guarded(async () => {
      const [name, body] = bodyOf(asTyped(values));
      if (!name) return show({ message: t("name_missing"), bad: true });
      clearTimeout(typing);
      const found = await call("PUT", modelPath(name), body);
      asked++; // a preview that is still on its way must not take the place of this answer
      done(name);
      ({ env } = found);
      picked = basedOn = name;
      show({ ...found, message: t("saved") });
      await refresh();
    }),
  remove: (name) =>
    guarded(async () => {
      await call("DELETE", modelPath(name));
      done(name);
      show({ message: t("deleted") });
      await refresh();
    }),
  paste: (line) =>
    guarded(async () => {
      const found = await post("/api/parse", { command: line ?? "" });
      loads++; // a model's form that is still on its way must not take the place of this one
      fill(found);
      edited = true;
      isDraft = false;
      show({ ...found, message: t("pasted") });
    }),
  saveAll: ([source, mirror]) =>
    guarded(async () => {
      await call("PUT", "/api/source", { source, mirror: mirror ?? "" });
      show({ message: t("saved") });
    }),
};

export async function startForm() {
  document.addEventListener("click", () => requestAnimationFrame(draw));
  document.addEventListener("input", ({ target }) => {
    if (target.closest?.("#form-fields")) form.changed();
  });
  const found = await get("/api/source");
  window.deck.set("all_source", found.source, found.mirror);
}
