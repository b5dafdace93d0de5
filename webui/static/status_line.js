// The quiet line above the box: what an answer waits for, how fast it comes, what it took.
import { integer } from "./format.js";
import { inWords } from "./failure.js";
import { t } from "./i18n.js";
import { showServer } from "./servers.js";
import { server } from "./state.js";

const INTERVAL_MS = 250;
const ENOUGH_MS = 300; // of an answer, to tell its speed
const LEAST_MS = 20;
let drawnAt = 0;
let announced = "";

const lineElement = () => document.getElementById("chat-status");

export function say(text, bad = false) {
  const line = lineElement();
  if (!line) return;
  line.textContent = text;
  line.classList.toggle("bad", bad);
  drawnAt = 0;
  announce(text);
}

// For who cannot see the line: what happens, not each figure on the way.
function announce(text) {
  const place = document.getElementById("chat-announced");
  if (!place || text === announced) return;
  announced = place.textContent = text;
}

// What went wrong; where a server failed, with the way to its card. `isBelow`: why stands below the answer already.
export function sayFailure(error, isBelow = false) {
  say(isBelow ? t("answer_broke_off") : inWords(error), true);
  if (!error.diagnosis) return;
  const button = Object.assign(document.createElement("button"), { className: "link", textContent: t("open_servers") });
  button.addEventListener("click", () => showServer(error.diagnosis.server));
  lineElement()?.append(" ", button);
}

// While an answer is being made.
export function sayProgress(ask) {
  const line = lineElement();
  const now = performance.now();
  if (!line || now - drawnAt < INTERVAL_MS) return;
  drawnAt = now;
  line.classList.remove("bad");
  line.textContent = ask.firstAt == null ? beforeText(ask, now) : duringText(ask, now);
  announce(ask.firstAt == null ? t("status_waiting") : t("status_answering"));
}

function beforeText(ask, now) {
  if (ask.promptAt == null) return "";
  const seconds = ((now - ask.promptAt) / 1000).toFixed(1);
  const waiting = server(ask.question.model)?.metrics?.num_requests_waiting;
  return waiting ? t("status_queued", { n: integer(waiting), s: seconds }) : t("status_prefill", { s: seconds });
}

function duringText(ask, now) {
  const lasted = now - ask.firstAt;
  return joined([
    t("first_token", { ms: integer(ask.firstAt - (ask.hasWaited ? ask.promptAt : ask.sentAt)) }),
    ask.tokens > 1 && lasted > ENOUGH_MS && rate((ask.tokens - 1) / (lasted / 1000)),
    ask.tokens && t("tokens", { n: integer(ask.tokens) }),
  ]);
}

// An answer that came in one piece has no speed.
const isLongEnough = ({ completion_tokens: tokens, tokens_per_second: perSecond }) =>
  perSecond && (tokens == null || (1000 * (tokens - 1)) / perSecond >= LEAST_MS);
const rate = (perSecond) => `${perSecond.toFixed(perSecond < 10 ? 1 : 0)} tok/s`;
const joined = (parts) => parts.filter(Boolean).join("   ");

// Of an answer that is over: vLLM's own counts. `more`: figures to stand before the reason why it ended.
export const figuresOf = (turn, more = []) =>
  [
    turn.first_token_s != null && t("first_token", { ms: integer(turn.first_token_s * 1000) }),
    isLongEnough(turn) && rate(turn.tokens_per_second),
    turn.completion_tokens != null && t("tokens", { n: integer(turn.completion_tokens) }),
    ...more,
    turn.finish_reason === "length" && t("cut_at_max_tokens"),
  ].filter(Boolean);

export function sayFigures(turn) {
  const context = server(turn.model)?.max_model_len;
  const used = (turn.prompt_tokens ?? 0) + (turn.completion_tokens ?? 0);
  say(joined(figuresOf(turn, [context && used && t("context", { used: integer(used), all: integer(context) })])));
}
