// The Compare tab: one question to several models side by side, each with its own conversation.
import { questionNow } from "./chat.js";
import { Column } from "./compare_column.js";
import { copyTool } from "./copy.js";
import { keepEscape } from "./dialog.js";
import { inWords } from "./failure.js";
import { integer } from "./format.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { systemPrompt } from "./presets.js";
import { showServer } from "./servers.js";
import { server, state, subscribe } from "./state.js";
import { figuresOf } from "./status_line.js";
import { costText } from "./switching.js";
import { html, nothing, render } from "./vendor/lit-html.js";

const MOST = 4;
const HEAD_START_MS = 1000; // at most, of models that are ready over others
const columns = Array.from({ length: MOST }, (_, place) => new Column(place));
const view = { shown: 0, text: "", system: null, own: localStorage.getItem("deck-compare-sampling") !== "chat" };

const shown = () => columns.slice(0, view.shown);
const isBusy = () => shown().some((column) => column.busy);
const names = () => state.snapshot?.servers.map(({ name }) => name) ?? [];
const rememberModels = () => localStorage.setItem("deck-compare", JSON.stringify(shown().map(({ model }) => model)));

// The models of last time; else the picked one and the next that costs the least.
function chooseFirst() {
  if (view.shown || names().length < 1) return;
  let before = [];
  try {
    before = JSON.parse(localStorage.getItem("deck-compare") ?? "[]");
  } catch {
    // as if there were none
  }
  const order = [...state.snapshot.servers].sort((a, b) => (a.switch_cost?.seconds ?? Infinity) - (b.switch_cost?.seconds ?? Infinity));
  const known = [...new Set([...before, state.model, ...order.map(({ name }) => name)])].filter((name) => server(name));
  const n = Math.min(Math.max(before.filter((name) => server(name)).length, 2), MOST, Math.max(known.length, 2));
  view.shown = n;
  columns.forEach((column, i) => (column.model = known[i] ?? known[0]));
}

function changeModel(column, model) {
  column.begin(model);
  rememberModels();
  draw();
}

function addColumn() {
  const used = new Set(shown().map(({ model }) => model));
  const column = columns[view.shown];
  view.shown += 1;
  column.begin(names().find((name) => !used.has(name)) ?? names()[0]);
  rememberModels();
  draw();
}

// The last ones move up: a column keeps its place on the page, what is in it does not.
function removeColumn(place) {
  columns[place].stop();
  const [gone] = columns.splice(place, 1);
  columns.splice(view.shown - 1, 0, gone);
  gone.begin();
  view.shown -= 1;
  columns.forEach((column, i) => {
    column.place = i;
    column.show();
  });
  rememberModels();
  draw();
}

const option = (name, picked) => {
  const cost = costText(server(name) ?? {});
  return html`<option value=${name} .selected=${name === picked}>${cost ? `${name} · ${cost}` : name}</option>`;
};

// Not drawn anew under the hand of somebody who is choosing.
function head(column) {
  const known = names();
  const all = known.includes(column.model) ? known : [column.model, ...known];
  return html`<select aria-label=${t("model_n", { n: column.place + 1 })} ?disabled=${column.busy}
      @change=${({ target }) => changeModel(column, target.value)}>${all.map((name) => option(name, column.model))}</select>
    ${view.shown > 2
      ? html`<button class="icon" title=${t("leave_out")} aria-label="${t("leave_out")}: ${column.model}" @click=${() => removeColumn(column.place)}>${icon("remove")}</button>`
      : nothing}`;
}

const figures = (turn) => [...figuresOf(turn), turn.note === "stopped" && t("stopped_note")].filter(Boolean).join(" · ");

function foot(column) {
  if (column.busy)
    return html`<span class="cap">${column.ask?.tokens ? t("tokens", { n: integer(column.ask.tokens) }) : ""}</span>
      <button class="btn small" @click=${() => column.stop()}>■ ${t("stop")}</button>`;
  const again = () => ask(column.unanswered, [column]);
  return html`${column.failed ? failure(column.failed) : nothing}
    ${column.unanswered == null
      ? answered(column.turns.at(-1))
      : html`<span class="cap">${column.stopped ? t("stopped_note") : column.failed ? "" : t("no_answer")}</span>
          <button class="btn small" @click=${again}>${t("try_again")}</button>`}`;
}

const failure = (error) => html`<span class="bad" role="alert">${inWords(error)}
  ${error.diagnosis ? html`<button class="link" @click=${() => showServer(error.diagnosis.server)}>${t("open_servers")}</button>` : nothing}</span>`;

function answered(turn) {
  if (!turn) return nothing;
  return html`<span class="cap">${figures(turn)}</span>${turn.assistant ? copyTool(turn.assistant) : nothing}`;
}

async function ask(text, to = shown()) {
  const sampling = view.own ? null : (await questionNow()).sampling;
  const question = { text, system_prompt: view.system ?? systemPrompt(), sampling };
  // Those that can answer at once first: where models do not fit together, none is woken before its turn.
  const isReady = ({ model }) => server(model)?.state === "ready";
  const first = Promise.all(to.filter(isReady).map((column) => column.send(question, draw)));
  const headStart = Promise.race([first, new Promise((resolve) => setTimeout(resolve, HEAD_START_MS))]);
  for (const column of to.filter((column) => !isReady(column))) column.send(question, draw, headStart);
}

function send() {
  const text = view.text.trim();
  if (!text || isBusy()) return;
  setText("");
  ask(text);
  draw();
}

// In the box itself: what is typed there is not drawn by us.
function setText(text) {
  const box = document.getElementById("compare-text");
  view.text = text;
  if (!box) return;
  box.value = text;
  fit(box);
}

function beginAnew() {
  for (const column of shown()) column.begin();
  draw();
  document.getElementById("compare-text")?.focus();
}

function onKey(event) {
  if (event.isComposing || event.keyCode === 229) return; // an input method's own key; Safari tells by 229 alone
  if (event.key === "Escape" && isBusy()) {
    keepEscape(event);
    for (const column of shown()) column.stop();
  }
  if (event.key !== "Enter" || event.shiftKey) return;
  event.preventDefault();
  send();
}

// As high as what is typed, within the limits of the style.
function fit(box) {
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

function options() {
  const chooseSampling = ({ target }) => {
    view.own = target.value === "own";
    localStorage.setItem("deck-compare-sampling", target.value);
  };
  return html`<details>
    <summary class="cap">${t("compare_options")}</summary>
    <label><span class="cap">${t("sampling")}</span>
      <select id="compare-sampling" @change=${chooseSampling}>
        <option value="own" .selected=${view.own}>${t("compare_own_sampling")}</option>
        <option value="chat" .selected=${!view.own}>${t("compare_chat_sampling")}</option>
      </select></label>
    <label><span class="cap">${t("system_prompt")}</span>
      <textarea id="compare-system" rows="2" .value=${view.system ?? systemPrompt()} @input=${({ target }) => (view.system = target.value)}></textarea></label>
  </details>`;
}

function prompt() {
  const onInput = ({ target }) => {
    view.text = target.value;
    fit(target);
  };
  const busy = isBusy();
  return html`<div class="compare-row">
      <textarea id="compare-text" rows="1" placeholder=${t("compare_placeholder")} aria-label=${t("message")}
        @input=${onInput} @keydown=${onKey}></textarea>
      ${busy
        ? html`<button class="btn" id="compare-stop" @click=${() => shown().forEach((column) => column.stop())}>■ ${t("stop_all")}</button>`
        : html`<button class="btn primary" id="compare-send" @click=${send}>${t("send")}</button>`}
    </div>
    <div class="compare-row">
      ${options()}
      <span class="buttons">
        ${view.shown < MOST && !busy && names().length > view.shown
          ? html`<button class="btn small" id="compare-add" @click=${addColumn}>${icon("plus")}<span>${t("add_model")}</span></button>`
          : nothing}
        ${shown().some(({ turns, unanswered }) => turns.length || unanswered)
          ? html`<button class="btn small" id="compare-new" ?disabled=${busy} @click=${beginAnew}>${t("compare_new")}</button>`
          : nothing}
      </span>
    </div>`;
}

// What an empty column says: what sending will do there.
function hint(column) {
  const { state: now } = server(column.model) ?? {};
  const key = { ready: "hint_ready", starting: "hint_starting", asleep: "hint_asleep" }[now] ?? "hint_stopped";
  return column.turns.length || column.busy || column.unanswered != null ? "" : t(key, { name: column.model });
}

function draw() {
  const input = document.getElementById("compare-input");
  if (!input || !state.snapshot) return;
  chooseFirst();
  document.getElementById("compare-columns")?.setAttribute("data-n", view.shown);
  for (const column of shown()) {
    const box = document.getElementById(`compare-head-${column.place}`);
    const isChosen = document.activeElement?.matches("select") && box?.contains(document.activeElement);
    if (box && !isChosen) render(head(column), box);
    const around = box?.closest(".compare-column");
    around?.setAttribute("role", "group");
    around?.setAttribute("aria-label", column.model);
    const below = document.getElementById(`compare-foot-${column.place}`);
    if (below) render(foot(column), below);
    document.getElementById(`compare-scroll-${column.place}`)?.setAttribute("data-hint", hint(column));
    column.watchScroll();
  }
  render(prompt(), input);
}

// From the chat: the picked model first, and what is typed there as the question.
export function compareThis() {
  if (!isBusy() && state.model && columns[0].model !== state.model && view.shown) {
    const at = columns.findIndex(({ model }, i) => i < view.shown && model === state.model);
    if (at > 0) columns[at].begin(columns[0].model);
    columns[0].begin(state.model);
  }
  const typed = document.querySelector("#chat-text textarea")?.value;
  document.getElementById("tab-compare-button")?.click();
  whenThere(() => {
    if (!view.text && typed) setText(typed);
    document.getElementById("compare-text").focus();
  });
}

// Gradio makes the tab when it is opened for the first time.
function whenThere(then) {
  draw();
  if (document.getElementById("compare-text")) return then();
  return requestAnimationFrame(() => whenThere(then));
}

export function startCompare() {
  subscribe(draw);
  document.addEventListener("click", () => requestAnimationFrame(draw));
}
