// The chat pane: from what is done in it to what it shows. A question goes
//   send, again → go (with the sliders' values) → startAsk → news, frame by frame → live.js → over → turns.js
import { ApiError } from "./api.js";
import { askIn, keptTurn, startAsk, stopAsk, turnOf } from "./ask.js";
import { changeDraft, editedTurn, editQuestion, emptyBox, focusBox, giveBack, inTheBox, leaveEdit, setText, startComposer, takeQuestion, typed } from "./composer.js";
import {
  addTurn, branchAt, currentConversation, onConversation, placeAfter, reload, restoreConversation, selectTurn,
} from "./conversation.js";
import { t } from "./i18n.js";
import { clearLive, drawSoon, follow, hasMoved, liveParts, startLive } from "./live.js";
import { hasDefaults, modelDefaults, onDefaults, shownDefaults } from "./sampling.js";
import { followEnd } from "./scroll.js";
import { server, state, subscribe } from "./state.js";
import { say, sayFailure, sayFigures, sayProgress } from "./status_line.js";
import { thinkingChoice } from "./thinking.js";
import { showTurns, startTurns } from "./turns.js";

const LOOK_MS = 250; // while nothing comes: how long it has been waited
const pane = {
  toEnd: null,
  waiting: null, // what the sliders' values are wanted for
  early: null, // sent while the page was still being built, or the model's own values were on their way
  wasOffline: false,
};

const asked = () => askIn(currentConversation().id);
const isBusy = () => asked() != null;
const isBuilt = () => currentConversation().id != null && state.snapshot != null && (!state.model || hasDefaults(state.model));

// Showing

// The turns up to the question that is being answered, or to the one that is being edited.
function draw(live = null) {
  const { turns } = currentConversation();
  const ask = asked();
  const edited = editedTurn();
  const shown = ask ? turns.slice(0, placeAfter(ask.parent)) : edited ? turns.slice(0, placeAfter(edited.parent)) : turns;
  const pending = ask && hasMoved() ? turnOf(ask) : null;
  showTurns(shown, { pending, live });
  const element = document.getElementById("chat-pane");
  element?.classList.toggle("has-turns", turns.length > 0);
  element?.classList.toggle("empty", !shown.length && !ask);
  element?.classList.toggle("busy", ask != null);
}

// Asking

// The values of the sliders and of the system prompt come from Gradio; `then` is called with them.
function withValues(then) {
  pane.waiting = then;
  window.deck.fire.values();
}

function questionOf({ text, images, parent, again }, { system, names, values }) {
  const { id, keep } = currentConversation();
  return {
    conversation: id,
    model: state.model,
    text,
    images,
    parent: parent ?? null,
    ...(again && { again }),
    system_prompt: system ?? "",
    sampling: {
      ...Object.fromEntries(names.map((field, i) => [field, values[i] === "" ? null : values[i]])),
      ...shownDefaults(state.model),
    },
    thinking: thinkingChoice(state.model),
    ...(!keep && { keep }),
  };
}

// What would be sent now, as /api/chat takes it: what is in the box, else the last question again. For other parts.
export function questionNow() {
  const { text, images, edited } = inTheBox();
  const { turns } = currentConversation();
  const last = turns.at(-1);
  const found =
    text || images.length || !last
      ? { text, images, parent: edited ? edited.parent : last?.id }
      : { text: last.user, images: last.images, parent: last.parent, again: last.id };
  return new Promise((then) => withValues((values) => then(questionOf(found, values))));
}

function go(wanted, values) {
  const { text, again, edited } = wanted;
  const question = questionOf(wanted, values);
  const ask = startAsk(question, (ask) => news(ask, edited)); // before anything is drawn: that takes its time
  sessionStorage.setItem("deck-pending", again ? "" : text); // a tab that is loaded again gives it back
  window.deck.set("begin", again ? typed() : emptyBox(), text);
  say("");
  follow(ask);
  draw();
  pane.toEnd?.();
  const look = setInterval(() => (ask.over ? clearInterval(look) : ask === asked() && sayProgress(ask)), LOOK_MS);
}

function news(ask, edited) {
  if (ask.over) return over(ask, edited);
  if (ask !== asked()) return; // another conversation is looked at
  drawSoon(ask);
  sayProgress(ask);
}

// The answer moves up into the Chatbot. What was typed comes back where nothing of an answer came.
async function over(ask, edited) {
  const { conversation, again } = ask.question;
  let turn = turnOf(ask);
  if (ask.stopped) say(t("stopped_note"));
  if (!turn && ask.stopped) turn = await keptTurn(ask); // its first words may still be on their way
  else if (ask.stopped) keptTurn(ask); // the next question waits for it; words more than are shown do not come any more
  const isShown = conversation === currentConversation().id;
  const isNext = isShown && isBusy(); // something else was sent while the app was asked
  if (!isNext) sessionStorage.removeItem("deck-pending");
  const live = isShown && !isNext ? clearLive() : null;
  if (turn) addTurn({ ...turn, id: turn.id ?? ask.turn }, conversation);
  else if (!again) giveBack(ask.question, edited, conversation);
  if (!isShown) return;
  draw(live);
  if (isNext) return;
  if (ask.failed) sayFailure(ask.failed, Boolean(turn));
  else if (!turn) say(t(ask.done ? "no_answer" : "stopped_note"));
  else if (ask.done) sayFigures(turn);
  takeFocusBack();
}

// Not from under the hands of somebody who types elsewhere meanwhile.
function takeFocusBack() {
  const at = document.activeElement;
  if (!at || at === document.body || at.closest("#chat-input")) focusBox();
}

function again(turn) {
  if (isBusy()) return;
  if (!state.model) return say(t("pick_first"), true);
  if (editedTurn()) leaveEdit();
  withValues((values) => go({ text: turn.user, images: turn.images, parent: turn.parent, again: turn.id }, values));
}

function edit(turn) {
  if (!turn || isBusy()) return;
  editQuestion(turn);
  say(t("editing"));
  draw();
}

function select(id) {
  if (isBusy()) return;
  if (editedTurn()) leaveEdit();
  orSay(selectTurn(id));
}

function sendEarly() {
  if (!pane.early || !isBuilt()) return;
  const inputs = pane.early;
  pane.early = null;
  actions.send(inputs);
}

async function orSay(promise) {
  try {
    await promise;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    say(error.message, true);
  }
}

export const actions = {
  say,
  // Enter in the box, or its button.
  send(inputs) {
    if (isBusy()) return;
    if (!isBuilt()) return void (pane.early = inputs);
    if (!state.model) return say(t("pick_first"), true);
    const found = takeQuestion(inputs.text ?? "");
    if (!found) return;
    const { turns } = currentConversation();
    const parent = found.edited ? found.edited.parent : turns.at(-1)?.id;
    go({ ...found, parent }, inputs);
  },
  stop() {
    const ask = asked();
    if (ask) stopAsk(ask);
  },
  // The values that `withValues` has asked for.
  values(inputs) {
    const then = pane.waiting;
    pane.waiting = null;
    then?.(inputs);
  },
};

// What changes around it

function conversationChanged(what) {
  if (what === "opened") {
    changeDraft(currentConversation().id);
    clearLive();
    say("");
  }
  if (what === "turn") return; // `over` draws that
  const ask = asked();
  follow(ask);
  draw(what === "opened" ? liveParts() : null);
  if (what === "opened") pane.toEnd?.();
}

// What was asked before the page was loaded again, and got no answer that was kept.
function giveBackPending() {
  const pending = sessionStorage.getItem("deck-pending");
  const { busy, turns } = currentConversation();
  if (busy) return;
  sessionStorage.removeItem("deck-pending");
  const box = document.querySelector("#chat-text textarea");
  if (pending && turns.at(-1)?.user !== pending && !box?.value) setText(pending);
}

// Once the app answers again: a conversation that it had in memory only is gone if it was started anew.
async function noticeRestart() {
  const isBack = pane.wasOffline && !state.offline;
  pane.wasOffline = state.offline;
  const { turns } = currentConversation();
  if (!isBack || isBusy()) return;
  await reload();
  if (currentConversation().turns.length < turns.length) say(t("forgotten"));
}

// What the empty pane says: which model will answer, and what sending will do.
function hint() {
  const status = server(state.model);
  const area = document.getElementById("conversation");
  if (!area || !status) return;
  const key = { ready: "hint_ready", starting: "hint_starting", asleep: "hint_asleep" }[status.state] ?? "hint_stopped";
  area.dataset.hint = t(key, { name: state.model });
}

function followText() {
  const area = document.getElementById("conversation");
  if (!area || pane.toEnd) return;
  const button = document.getElementById("chat-to-end");
  if (!button) return; // Gradio mounts its parts one by one
  pane.toEnd = followEnd(area, (following) => (button.hidden = following));
  button.addEventListener("click", () => pane.toEnd());
}

function onEscape(event) {
  // Not the Escape that closes a list or ends a Chinese input method's choice.
  if (event.key !== "Escape" || event.isComposing || event.defaultPrevented || event.target.closest?.("#model-picker")) return;
  if (!document.getElementById("chat-pane")?.getClientRects().length) return; // another tab is looked at
  if (isBusy()) actions.stop();
  else if (editedTurn()) {
    leaveEdit();
    say("");
    draw();
  }
}

export async function startChat() {
  subscribe(hint);
  subscribe(followText);
  subscribe(noticeRestart);
  modelDefaults();
  startTurns({ edit, again, branch: (turn) => orSay(branchAt(turn.id)), select });
  startLive(draw);
  startComposer({ editLast: () => edit(currentConversation().turns.at(-1)) });
  onConversation(conversationChanged);
  document.addEventListener("keydown", onEscape);
  await restoreConversation();
  giveBackPending();
  subscribe(sendEarly);
  onDefaults(sendEarly);
}
