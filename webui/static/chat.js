// The chat pane. The app keeps the conversation; here is what is shown of it and the answer that is being made.
import { ApiError, call, get, stream } from "./api.js";
import { inWords } from "./failure.js";
import { integer } from "./format.js";
import { t } from "./i18n.js";
import { modelDefaults } from "./sampling.js";
import { followEnd } from "./scroll.js";
import { showServer } from "./servers.js";
import { server, state, subscribe } from "./state.js";
import { untilReady } from "./switching.js";
import { newId, ownConversation, takeConversation } from "./tab.js";

const PATIENCE_MS = 3000; // for the app to notice that nobody listens any more

const chat = {
  id: null,
  turns: [],
  forgotten: 0, // of the turns, those that the app lost when it was started anew
  replaceFrom: null, // set by Edit: the next question takes the place of that turn
  pending: null, // the question being answered
  answer: { content: "", reasoning: "" },
  controller: null,
  stopped: false, // by the reader
  done: null, // the last frame of the answer
  follow: null, // moves the view to the end of the conversation
};

// What Gradio's Chatbot shows

const message = (role, text, metadata = null) => ({
  role, metadata, options: null, content: [{ type: "text", text }],
});

function messagesOf(turn) {
  const found = [message("user", turn.user)];
  if (turn.reasoning) found.push(message("assistant", turn.reasoning, { title: t("thought") }));
  const note = turn.note ? `\n\n*— ${turn.note === "stopped" ? t("stopped_note") : turn.note}*` : "";
  if (turn.assistant || note) found.push(message("assistant", closed(turn.assistant, note) + note));
  return found;
}

// Text that breaks off inside a block of code would take the note below into that block.
function closed(text, note) {
  const fences = text.match(/^ {0,3}```/gm)?.length ?? 0;
  return note && fences % 2 ? `${text}\n\`\`\`` : text;
}

function showTurns() {
  const turns = chat.replaceFrom == null ? chat.turns : chat.turns.slice(0, chat.replaceFrom);
  const shown = turns.flatMap(messagesOf);
  if (chat.pending != null) shown.push(message("user", chat.pending));
  window.deck.set("turns", shown);
  const pane = document.getElementById("chat-pane");
  pane?.classList.toggle("has-turns", chat.turns.length > 0);
  pane?.classList.toggle("empty", shown.length === 0);
  pane?.classList.toggle("busy", chat.pending != null);
}

function showLive(text) {
  window.deck.set("live", text);
}

function liveText({ content, reasoning }) {
  if (!reasoning) return content;
  const thought = reasoning.trim().split("\n").map((line) => `> ${line}`).join("\n");
  return content ? `${thought}\n\n${content}` : thought;
}

export function say(text, bad = false) {
  const line = document.getElementById("chat-status");
  if (!line) return;
  line.textContent = text;
  line.classList.toggle("bad", bad);
}

// What went wrong; where a server failed, with the way to its card.
function sayFailure(error) {
  say(inWords(error), true);
  if (!error.diagnosis) return;
  const button = Object.assign(document.createElement("button"), { className: "link", textContent: t("open_servers") });
  button.addEventListener("click", () => showServer(error.diagnosis.server));
  document.getElementById("chat-status")?.append(" ", button);
}

function followText() {
  const area = document.getElementById("conversation");
  if (area && !chat.follow) chat.follow = followEnd(area);
}

// One question

async function ask({ text, system, names, values }, replaceFrom) {
  const name = state.model;
  if (!name) return say(t("pick_first"), true);
  const again = replaceFrom != null && chat.replaceFrom == null; // Regenerate, not Edit
  sessionStorage.setItem("deck-pending", text); // a tab that is loaded again gives it back
  Object.assign(chat, { pending: text, replaceFrom, answer: { content: "", reasoning: "" }, stopped: false, done: null });
  chat.controller = new AbortController();
  showTurns();
  showLive("…");
  say("");
  chat.follow?.();
  const sampling = Object.fromEntries(names.map((field, i) => [field, values[i] === "" ? null : values[i]]));
  const body = {
    conversation: chat.id, model: name, text, system_prompt: system ?? "", sampling,
    replace_from: replaceFrom == null ? null : Math.max(0, replaceFrom - chat.forgotten),
  };
  let failed = null;
  try {
    await stream("/api/chat", body, chat.controller.signal, (frame) => (failed = take(frame, name) ?? failed));
    if (!chat.done && !failed) failed = new Error(t("broke_off"));
  } catch (error) {
    if (error.name !== "AbortError") failed = error instanceof ApiError ? error : new Error(t("broke_off"));
  }
  finish(text, failed, again, chat.stopped ? await keptTurn(text) : null);
}

// What the app has kept of an answer that was stopped: more than is shown, where words were still on their way.
async function keptTurn(text) {
  const at = Math.max(0, (chat.replaceFrom ?? chat.turns.length) - chat.forgotten);
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await new Promise((then) => setTimeout(then, 30))) {
    try {
      const { turns, busy } = await get(`/api/conversations/${chat.id}`);
      if (busy) continue; // it has not noticed yet
      const turn = turns[at];
      return turn?.user === text && turn.assistant.startsWith(chat.answer.content) ? turn : null;
    } catch {
      return null; // the app is away: what is shown is all there is
    }
  }
  return null;
}

// Shows a frame; returns the error that it carries, if it does.
function take(frame, name) {
  switch (frame.type) {
    case "progress":
      showLive(`*${untilReady(frame.status, frame.waited_s)}*`);
      return null;
    case "turn":
      return null;
    case "text":
      chat.answer.content += frame.content;
      chat.answer.reasoning += frame.reasoning;
      showLive(liveText(chat.answer));
      return null;
    case "done":
      chat.done = frame;
      say(summary(frame, name));
      return null;
    default:
      return new ApiError(frame);
  }
}

function summary(done, name) {
  const context = server(name)?.max_model_len;
  const used = (done.prompt_tokens ?? 0) + (done.completion_tokens ?? 0);
  return [
    done.first_token_s != null && t("first_token", { ms: integer(done.first_token_s * 1000) }),
    done.tokens_per_second && `${done.tokens_per_second.toFixed(done.tokens_per_second < 10 ? 1 : 0)} tok/s`,
    done.completion_tokens != null && t("tokens", { n: integer(done.completion_tokens) }),
    context && used && t("context", { used: integer(used), all: integer(context) }),
    done.finish_reason === "length" && t("cut_at_max_tokens"),
  ].filter(Boolean).join("   ");
}

// The answer moves up into the Chatbot. What was typed comes back where nothing of an answer came.
function finish(text, failed, again, stoppedTurn) {
  const { content, reasoning } = chat.answer;
  const kept = Boolean(content || reasoning || stoppedTurn);
  if (kept) {
    const keep = chat.replaceFrom ?? chat.turns.length;
    const note = failed ? inWords(failed) : chat.stopped ? "stopped" : "";
    chat.forgotten = Math.min(chat.forgotten, keep);
    chat.turns = [...chat.turns.slice(0, keep), stoppedTurn ?? { user: text, assistant: content, reasoning, note }];
  } else if (!again) {
    const draft = document.querySelector("#chat-text textarea")?.value; // typed meanwhile
    window.deck.set("text", draft ? `${text}\n${draft}` : text);
  }
  sessionStorage.removeItem("deck-pending");
  if (failed) sayFailure(failed);
  else if (!kept) say(t(chat.done ? "no_answer" : "stopped_note"));
  // What came back to be sent again still takes the place of the turn that it was to replace.
  Object.assign(chat, { pending: null, replaceFrom: kept || again ? null : chat.replaceFrom, controller: null });
  showTurns(); // Gradio draws them before the next frame: the text is never gone, nor there twice
  showLive("");
  document.querySelector("#chat-text textarea")?.focus();
}

// What the buttons do

export const actions = {
  say,
  send(inputs) {
    const text = (inputs.text ?? "").trim();
    if (!text || chat.pending != null || !chat.id) return;
    window.deck.set("text", "");
    ask({ ...inputs, text }, chat.replaceFrom);
  },
  stop() {
    chat.stopped = true;
    chat.controller?.abort();
  },
  regenerate(inputs) {
    const last = chat.turns.at(-1);
    if (last && chat.pending == null) ask({ ...inputs, text: last.user }, chat.turns.length - 1);
  },
  edit() {
    const last = chat.turns.at(-1);
    if (!last || chat.pending != null) return;
    chat.replaceFrom = chat.turns.length - 1;
    window.deck.set("text", last.user);
    say(t("editing"));
    showTurns();
    document.querySelector("#chat-text textarea")?.focus();
  },
  async clear() {
    if (chat.pending != null) return;
    try {
      await call("DELETE", `/api/conversations/${chat.id}`);
      Object.assign(chat, { turns: [], forgotten: 0, replaceFrom: null });
      say("");
      showTurns();
    } catch (error) {
      say(error.message, true);
    }
  },
};

// What the app knows of this conversation. Right after a reload it may still be about to put an answer aside.
async function restore() {
  try {
    const { turns, busy } = await get(`/api/conversations/${chat.id}`);
    if (chat.pending != null) return;
    chat.turns = turns;
    if (busy) setTimeout(restore, 500);
    else giveBackPending();
  } catch (error) {
    if (error.code === "offline") return;
    chat.id = takeConversation(newId()); // it is somebody else's, after a change of user in this browser
  }
  showTurns();
}

// What was asked before the page was loaded again, and got no answer that was kept.
function giveBackPending() {
  const pending = sessionStorage.getItem("deck-pending");
  sessionStorage.removeItem("deck-pending");
  const box = document.querySelector("#chat-text textarea");
  if (pending && chat.turns.at(-1)?.user !== pending && !box?.value) window.deck.set("text", pending);
}

// Once the app answers again: if it was started anew, it knows nothing of what stands here.
let wasOffline = false;
async function noticeRestart() {
  const isBack = wasOffline && !state.offline;
  wasOffline = state.offline;
  if (!isBack || !chat.turns.length) return;
  const { turns } = await get(`/api/conversations/${chat.id}`);
  chat.forgotten = Math.max(0, chat.turns.length - turns.length);
  if (chat.forgotten) say(t("forgotten"));
}

// What the empty pane says: which model will answer, and what sending will do.
function hint() {
  const status = server(state.model);
  const area = document.getElementById("conversation");
  if (!area || !status) return;
  const key = { ready: "hint_ready", starting: "hint_starting", asleep: "hint_asleep" }[status.state] ?? "hint_stopped";
  area.dataset.hint = t(key, { name: state.model });
}

export async function startChat() {
  subscribe(hint);
  subscribe(followText);
  subscribe(noticeRestart);
  modelDefaults();
  document.addEventListener("keydown", (event) => {
    // Not the Escape that closes a list or ends a Chinese input method's choice.
    if (event.key !== "Escape" || event.isComposing || event.target.closest?.("#model-picker")) return;
    if (chat.pending != null) actions.stop();
    else if (chat.replaceFrom != null) {
      chat.replaceFrom = null;
      window.deck.set("text", "");
      say("");
      showTurns();
    }
  });
  chat.id = await ownConversation();
  restore();
}
