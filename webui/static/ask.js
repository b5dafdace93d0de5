// One question, from the request to its last frame. It goes on whatever conversation is looked at meanwhile.
import { ApiError, conversationPath, get, stream } from "./api.js";
import { inWords } from "./failure.js";
import { t } from "./i18n.js";

const PATIENCE_MS = 3000; // for the app to notice that nobody listens any more
const LOOK_MS = 30;
const running = new Map(); // by conversation
const ending = new Map(); // by conversation: stopped ones, until the app has put them aside

export const askIn = (conversation) => running.get(conversation) ?? null;

// Asks at once; `onNews(ask)` is called with each frame and at the end, when `ask.over` is true. `question` is the request's
// body, with `text` and `images` also where `again` makes the app take those of that turn.
export function startAsk(question, onNews) {
  const ask = {
    question,
    turn: null, // its id, once the request is sent
    parent: question.parent ?? null,
    content: "",
    reasoning: "",
    recast: false, // what first came as content was thinking
    tokens: null, // so far
    reasoningTokens: null, // of them
    progress: null, // the last frame about a server that is not ready yet
    sentAt: performance.now(),
    hasWaited: false, // for a server that was not ready
    promptAt: null, // when the request went to the server
    reasoningAt: null,
    firstAt: null, // of the answer's text or thoughts
    contentAt: null,
    done: null, // the last frame's figures
    failed: null, // an Error
    stopped: false,
    over: false,
    controller: new AbortController(),
  };
  running.set(question.conversation, ask);
  run(ask, onNews);
  return ask;
}

export function stopAsk(ask) {
  ask.stopped = true;
  ask.controller.abort();
}

async function run(ask, onNews) {
  const { conversation } = ask.question;
  try {
    const before = ending.get(conversation);
    if (before) await before; // else the app would say that it is still busy with that
    await stream("/api/chat", body(ask.question), ask.controller.signal, (frame) => {
      take(ask, frame);
      onNews(ask);
    });
    if (!ask.done && !ask.failed) ask.failed = new Error(t("broke_off"));
  } catch (error) {
    if (error.name !== "AbortError") ask.failed = error instanceof ApiError ? error : new Error(t("broke_off"));
    ask.controller.abort(); // nobody reads any more what may still come
  }
  ask.over = true;
  running.delete(conversation);
  onNews(ask);
}

function body({ again, ...rest }) {
  if (!again) return rest;
  const { text, images, parent, ...without } = rest;
  return { ...without, again };
}

function take(ask, frame) {
  const now = performance.now();
  switch (frame.type) {
    case "progress":
      Object.assign(ask, { progress: frame, hasWaited: true });
      break;
    case "turn":
      Object.assign(ask, { turn: frame.turn, parent: frame.parent, promptAt: now, progress: null });
      break;
    case "text":
      if (frame.recast) Object.assign(ask, { reasoning: ask.reasoning + ask.content, content: "", recast: true, reasoningAt: ask.firstAt ?? now, contentAt: null }); // all so far was thinking
      ask.content += frame.content;
      ask.reasoning += frame.reasoning;
      ask.tokens = frame.tokens ?? ask.tokens;
      ask.firstAt ??= now;
      if (frame.reasoning) ask.reasoningAt ??= now;
      if (frame.reasoning && !ask.content) ask.reasoningTokens = ask.tokens;
      if (frame.content) ask.contentAt ??= now;
      break;
    case "done":
      ask.done = frame;
      break;
    default:
      ask.failed = new ApiError(frame);
  }
}

// What there is of the answer as a turn; null where there is nothing.
export function turnOf(ask) {
  if (!ask.content && !ask.reasoning) return null;
  const { type, ...figures } = ask.done ?? {};
  return {
    ...figures,
    reasoning_s: figures.reasoning_s ?? thinkingSeconds(ask),
    reasoning_tokens: figures.reasoning_tokens ?? ask.reasoningTokens,
    id: ask.turn,
    parent: ask.parent,
    user: ask.question.text,
    images: ask.question.images ?? [],
    assistant: ask.content,
    reasoning: ask.reasoning,
    model: ask.question.model,
    note: ask.failed ? inWords(ask.failed) : ask.stopped ? "stopped" : "",
  };
}

export function thinkingSeconds(ask) {
  if (ask.reasoningAt == null) return null;
  return ((ask.contentAt ?? performance.now()) - ask.reasoningAt) / 1000;
}

// What the app has kept of an answer that was stopped: more than is shown, where words were still on their way.
export function keptTurn(ask) {
  const { conversation } = ask.question;
  const found = lookForTurn(ask).finally(() => ending.delete(conversation));
  ending.set(conversation, found);
  return found;
}

async function lookForTurn(ask) {
  const { conversation, text } = ask.question;
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await new Promise((then) => setTimeout(then, LOOK_MS))) {
    try {
      const { turns, busy } = await get(conversationPath(conversation));
      if (busy) continue; // it has not noticed yet
      const turn = ask.turn ? turns.find((each) => each.id === ask.turn) : turns.at(-1);
      return turn?.user === text && turn.assistant.startsWith(ask.content) ? turn : null;
    } catch {
      return null; // the app is away: what is shown is all there is
    }
  }
  return null;
}
