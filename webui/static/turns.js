// The turns as Gradio's Chatbot shows them, and below each what can be done with it.
import { blocksOf } from "./blocks.js";
import { integer } from "./format.js";
import { t } from "./i18n.js";
import { answerTools, moveInToolbar, oneStop, pictures, questionTools } from "./turn_tools.js";
import { html, nothing, render } from "./vendor/lit-html.js";

const drawn = new WeakMap(); // by turn: its messages
const seen = new WeakMap(); // by element below a message: what it shows
let rows = []; // for each row of the Chatbot: the turn, and which part of it
let shown = []; // the Chatbot's messages
let actions = {};
const open = new Set(); // the turns whose thoughts are unfolded
const idOf = (turn) => turn.id ?? "pending";

// What was unfolded while it was being made stays so.
export function keepOpen(turn, isOpen) {
  if (isOpen) open.add(idOf(turn));
}

export const thoughtFold = (title, isOpen, toggle, controls = null) =>
  html`<button type="button" class="fold ${isOpen ? "open" : ""}" aria-expanded=${isOpen} aria-controls=${controls ?? nothing} @click=${toggle}
    ><span>${title}</span></button>`;

// As Gradio's Chatbot takes it.
export const message = (role, text, metadata = null) => ({ role, metadata, options: null, content: [{ type: "text", text }] });

export function thoughtTitle({ reasoning_s: seconds, reasoning_tokens: tokens }) {
  const parts = [
    seconds == null ? t("thought") : t("thought_for", { s: seconds.toFixed(1) }),
    tokens ? t("tokens", { n: integer(tokens) }) : "",
  ];
  return parts.filter(Boolean).join(" · ");
}

// `growing` is the answer that is being made: its last block is not in the Chatbot yet.
function messagesOf(turn, growing = false) {
  const found = [message("user", turn.user)];
  const blocks = blocksOf(turn.assistant);
  if (growing) blocks.pop();
  const withThought = turn.reasoning && (!growing || blocks.length);
  if (withThought) found.push(message("assistant", turn.reasoning));
  return [...found, ...blocks.filter(Boolean).map((block) => message("assistant", block))];
}

function messagesKept(turn) {
  if (!drawn.has(turn)) drawn.set(turn, messagesOf(turn));
  return drawn.get(turn);
}

// Shows these turns, and below them the question that is being answered. `live` is what the live part is set to in the
// same moment, so that no text is gone or there twice.
export function showTurns(turns, { pending = null, live = null } = {}) {
  const parts = turns.map((turn) => [turn, messagesKept(turn)]);
  if (pending) parts.push([pending, messagesOf(pending, true)]);
  const models = new Set(turns.map((turn) => turn.model));
  rows = parts.flatMap(([turn, messages]) =>
    messages.map((each, i) => ({
      turn,
      isQuestion: i === 0,
      isThought: i === 1 && Boolean(turn.reasoning),
      isOver: turn !== pending,
      isEnd: turn !== pending && i === messages.length - 1,
      named: models.size > 1,
    })),
  );
  const messages = parts.flatMap(([, found]) => found);
  const isSame = messages.length === shown.length && messages.every((each, i) => each === shown[i]);
  shown = messages;
  if (live) window.deck.set("pane", messages, live.question, live.content, live.reasoning);
  else if (!isSame) window.deck.set("turns", messages); // it draws all of them anew: not when a question is sent
  decorate();
}

function below({ turn, isQuestion, isThought, isOver, isEnd, named }) {
  const isOpen = open.has(idOf(turn));
  const toggle = () => {
    if (!open.delete(idOf(turn))) open.add(idOf(turn));
    decorate();
  };
  return html`${isThought ? thoughtFold(thoughtTitle(turn), isOpen, toggle) : nothing}
    ${isQuestion ? pictures(turn.images) : nothing}
    ${isQuestion && isOver ? questionTools(turn, actions) : nothing}
    ${isEnd ? answerTools(turn, actions, named) : nothing}`;
}

// Gradio draws its rows after they were set; what is below them is drawn whenever they have changed.
function decorate() {
  const found = document.querySelectorAll("#turns .message-row");
  rows.forEach((row, i) => {
    const box = found[i]?.querySelector(".flex-wrap");
    if (!box) return;
    let place = box.querySelector(":scope > .turn-extra");
    const wanted = row.isQuestion || row.isThought || row.isEnd;
    const isOpen = row.isThought && open.has(idOf(row.turn));
    found[i].classList.toggle("thought-row", row.isThought);
    found[i].classList.toggle("open", isOpen);
    if (!place && !wanted) return;
    if (!place) box.append((place = Object.assign(document.createElement("div"), { className: "turn-extra" })));
    const { turn, ...part } = row;
    const key = JSON.stringify([part, isOpen]);
    const before = seen.get(place);
    if (before?.turn === turn && before.key === key) return;
    seen.set(place, { turn, key });
    render(wanted ? below(row) : nothing, place);
    oneStop(place);
  });
  const last = rows.findLast((row) => row.isEnd)?.turn;
  found.forEach((element, i) => element.classList.toggle("of-last", rows[i]?.turn === last));
}

export function startTurns(does) {
  actions = does;
  const area = document.getElementById("turns");
  new MutationObserver(decorate).observe(area, { childList: true, subtree: true });
  area.addEventListener("keydown", moveInToolbar);
}
