// The answer that is being made, below the turns. A frame sets the text of one gr.Markdown, however long the
// conversation is; blocks that are whole move up into the Chatbot, so that it costs the same however long the answer is.
import { thinkingSeconds, turnOf } from "./ask.js";
import { nextCut } from "./blocks.js";
import { t } from "./i18n.js";
import { untilReady } from "./switching.js";
import { recall, remember } from "./tab.js";
import { keepOpen, thoughtFold, thoughtTitle } from "./turns.js";
import { pictures } from "./turn_tools.js";
import { html, nothing, render } from "./vendor/lit-html.js";

const CHARS_PER_MS = 60; // a text that cannot be cut (a long block of code) is drawn the less often the longer it is
const view = { ask: null, from: 0, recast: false, shown: "", thought: "", at: 0, scheduled: false, moveUp: null };

export const thoughtIsOpen = () => recall("deck-thoughts") === "open";

// `moveUp(live)` shows the blocks that are whole in the Chatbot, and sets the live part at the same time.
export function startLive(moveUp) {
  view.moveUp = moveUp;
}

// Shows an answer that is being made, from now on; null: none.
export function follow(ask) {
  if (ask === view.ask) return;
  Object.assign(view, { ask, from: 0, recast: false, shown: "", thought: "", at: 0 });
  if (ask) draw();
}

// What the live part has to show once all is in the Chatbot.
export function clearLive() {
  if (hasThought()) keepOpen(turnOf(view.ask), thoughtIsOpen());
  Object.assign(view, { ask: null, from: 0, shown: "", thought: "" });
  drawHead();
  return { question: "", content: "", reasoning: "" };
}

// What the live part shows now.
export const liveParts = () => ({
  question: view.ask && !hasMoved() ? view.ask.question.text : "",
  content: view.shown,
  reasoning: view.thought,
});

// To be called with each frame of `ask`; draws at most once a picture of the screen.
export function drawSoon(ask) {
  if (ask !== view.ask || view.scheduled) return;
  if (!view.shown && !view.thought) return draw(); // the first words at once
  view.scheduled = true;
  const wait = Math.max(view.shown.length, view.thought.length) / CHARS_PER_MS;
  const due = () => requestAnimationFrame(() => {
    view.scheduled = false;
    if (view.ask) draw();
  });
  const left = view.at + wait - performance.now();
  if (left > 16) setTimeout(due, left);
  else due();
}

function draw() {
  const { ask } = view;
  view.at = performance.now();
  const isBack = view.from > 0 && ask.recast && !view.recast; // what moved up was thinking, as it turned out
  if (isBack) view.from = 0;
  view.recast = ask.recast;
  drawHead();
  let cut = nextCut(ask.content, view.from);
  const moves = cut != null;
  if (moves) keepOpen(turnOf(ask), hasThought() && thoughtIsOpen());
  for (; cut != null; cut = nextCut(ask.content, view.from)) view.from = cut;
  const text = ask.content.slice(view.from);
  if (moves || isBack) {
    const thought = openThought();
    Object.assign(view, { shown: text, thought });
    drawHead();
    view.moveUp({ question: moves ? "" : ask.question.text, content: text, reasoning: thought });
  } else if (text !== view.shown) window.deck.set("live", (view.shown = text));
  drawThought();
}

// Whether the question and the first blocks of the answer are in the Chatbot already.
export const hasMoved = () => view.from > 0;
const hasThought = () => Boolean(view.ask?.reasoning) && view.from === 0;
const openThought = () => (hasThought() && thoughtIsOpen() ? view.ask.reasoning : "");

function drawThought() {
  const text = openThought();
  if (text === view.thought) return;
  view.thought = text;
  window.deck.set("thinking", text);
}

function toggleThought() {
  remember("deck-thoughts", thoughtIsOpen() ? "closed" : "open");
  drawHead();
  drawThought();
}

// What is waited for, and the fold of the thoughts.
function drawHead() {
  const { ask } = view;
  const box = document.getElementById("live-head");
  if (!box) return;
  const open = thoughtIsOpen();
  const { classList } = document.getElementById("live"); // not :has(): it would be looked for at each frame
  classList.toggle("has-question", Boolean(ask) && !hasMoved());
  classList.toggle("has-thought", hasThought());
  classList.toggle("thought-open", hasThought() && open);
  render(ask ? html`${hasMoved() ? nothing : pictures(ask.question.images)}${waiting(ask)}${hasThought() ? fold(ask, open) : nothing}` : nothing, box);
}

function waiting(ask) {
  if (ask.firstAt != null) return nothing;
  const text = ask.progress ? untilReady(ask.progress.status, ask.progress.waited_s) : "";
  return html`<div id="live-note" class=${text ? "" : "dots"}>${text || html`<i></i><i></i><i></i>`}</div>`;
}

function fold(ask, open) {
  const title = ask.contentAt == null ? t("thinking_for", { s: thinkingSeconds(ask).toFixed(1) }) : thoughtTitle(turnOf(ask));
  return thoughtFold(title, open, toggleThought, "live-thinking");
}
