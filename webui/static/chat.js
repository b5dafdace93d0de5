// The chat pane. The app keeps the conversation; here is what is shown of it and the answer that is being made.
import { ApiError, call, get, stream } from "./api.js";
import { integer, phaseText } from "./format.js";
import { t } from "./i18n.js";
import { modelDefaults } from "./sampling.js";
import { server, state, subscribe } from "./state.js";

const chat = {
  id: localStorage.getItem("deck-conversation") ?? newId(),
  turns: [],
  replaceFrom: null, // set by Edit: the next question takes the place of that turn
  pending: null, // the question being answered
  answer: { content: "", reasoning: "" },
  controller: null,
};

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID() needs a secure context
  const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  localStorage.setItem("deck-conversation", id);
  return id;
}

// What Gradio's Chatbot shows

const message = (role, text, metadata = null) => ({
  role, metadata, options: null, content: [{ type: "text", text }],
});

function messagesOf(turn) {
  const found = [message("user", turn.user)];
  if (turn.reasoning) found.push(message("assistant", turn.reasoning, { title: t("thought") }));
  const note = turn.note ? `\n\n*— ${turn.note === "stopped" ? t("stopped_note") : turn.note}*` : "";
  if (turn.assistant || note) found.push(message("assistant", turn.assistant + note));
  return found;
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

// The conversation scrolls with the text unless the reader has scrolled up.
function followText() {
  const area = document.getElementById("conversation");
  if (!area || area.dataset.follows) return;
  area.dataset.follows = "yes";
  let following = true;
  area.addEventListener("scroll", () => {
    following = area.scrollHeight - area.scrollTop - area.clientHeight < 40;
  });
  new MutationObserver(() => following && area.scrollTo({ top: area.scrollHeight })).observe(area, {
    childList: true, subtree: true, characterData: true,
  });
  chat.follow = () => {
    following = true;
    area.scrollTo({ top: area.scrollHeight });
  };
}

// One question

async function ask({ text, model, system, names, values }, replaceFrom) {
  const name = model ?? state.model;
  if (!name) return say(t("pick_first"), true);
  chat.pending = text;
  chat.answer = { content: "", reasoning: "" };
  chat.controller = new AbortController();
  chat.replaceFrom = replaceFrom;
  showTurns();
  showLive("…");
  say("");
  chat.follow?.();
  const sampling = Object.fromEntries(names.map((field, i) => [field, values[i] === "" ? null : values[i]]));
  const body = {
    conversation: chat.id, model: name, text, system_prompt: system ?? "", sampling, replace_from: replaceFrom,
  };
  let failed = null;
  try {
    await stream("/api/chat", body, chat.controller.signal, (frame) => (failed = take(frame, name) ?? failed));
  } catch (error) {
    if (error.name !== "AbortError") failed = error instanceof ApiError ? error : new Error(t("broke_off"));
  }
  await finish(text, failed);
}

// Shows a frame; returns the error that it carries, if it does.
function take(frame, name) {
  switch (frame.type) {
    case "progress":
      showLive(`*${t("starting_model", { name })} ${phaseText(frame.status)} · ${Math.round(frame.waited_s)} s*`);
      return null;
    case "text":
      chat.answer.content += frame.content;
      chat.answer.reasoning += frame.reasoning;
      showLive(liveText(chat.answer));
      return null;
    case "done":
      say(summary(frame));
      return null;
    default:
      return new ApiError(frame);
  }
}

function summary(done) {
  const context = server(state.model)?.max_model_len;
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
async function finish(text, failed) {
  const { content, reasoning } = chat.answer;
  const kept = Boolean(content || reasoning);
  chat.controller = null;
  if (kept) {
    const keep = chat.replaceFrom ?? chat.turns.length;
    const note = failed ? failed.message : chat.stopped ? "stopped" : "";
    chat.turns = [...chat.turns.slice(0, keep), { user: text, assistant: content, reasoning, note }];
    chat.replaceFrom = null;
  } else {
    window.deck.set("text", text);
    if (!failed) say(t("stopped_note"));
  }
  if (failed) say(failed.message, true);
  chat.stopped = false;
  chat.pending = null;
  if (!kept) chat.replaceFrom = null;
  showTurns();
  showLive("");
  document.querySelector("#chat-text textarea")?.focus();
}

// What the buttons do

export const actions = {
  say,
  send(inputs) {
    const text = (inputs.text ?? "").trim();
    if (!text || chat.pending != null) return;
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
      chat.turns = [];
      chat.replaceFrom = null;
      say("");
      showTurns();
    } catch (error) {
      say(error.message, true);
    }
  },
};

async function restore() {
  try {
    chat.turns = (await get(`/api/conversations/${chat.id}`)).turns;
  } catch {
    chat.id = newId(); // somebody else's, after a change of user in this browser
  }
  showTurns();
}

// What the empty pane says: which model will answer, and what sending will do.
function hint() {
  const status = server(state.model);
  const area = document.getElementById("conversation");
  if (!area || !status) return;
  const key = { ready: "hint_ready", starting: "hint_starting" }[status.state] ?? "hint_stopped";
  area.dataset.hint = t(key, { name: state.model });
}

export function startChat() {
  subscribe(hint);
  restore();
  modelDefaults();
  subscribe(followText);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (chat.pending != null) actions.stop();
    else if (chat.replaceFrom != null) {
      chat.replaceFrom = null;
      window.deck.set("text", "");
      say("");
      showTurns();
    }
  });
}
