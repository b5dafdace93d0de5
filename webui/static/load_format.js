// The figures of load tests as people read them, with their units.
import { UNKNOWN } from "./format.js";
import { locale, t } from "./i18n.js";
import { html } from "./vendor/lit-html.js";

export const LATENCIES = ["ttft", "tpot", "itl", "e2el"];
export const STATISTICS = ["mean", "p50", "p90", "p99"];
export const isActive = (state) => state === "queued" || state === "running";

const CHIPS = { queued: "", running: "starting", done: "ready", failed: "failed", stopped: "", interrupted: "stopping" };
export const stateChip = (state) => html`<span class="chip ${CHIPS[state] ? `chip-${CHIPS[state]}` : ""}">${t(`load_state_${state}`)}</span>`;

// The three digits that count: "8.42", "84.2", "842", "8,420".
export function figure(value) {
  if (value == null) return UNKNOWN;
  const size = Math.abs(value);
  const digits = size >= 99.95 || size === 0 ? 0 : size >= 9.995 ? 1 : 2;
  return value.toLocaleString(locale, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export const ms = (value) => (value == null ? UNKNOWN : value >= 10_000 ? `${figure(value / 1000)} s` : `${figure(value)} ms`);
export const perSecond = (value, what) => (value == null ? UNKNOWN : `${figure(value)} ${what}/s`);

// On an axis: as short as it goes.
const short = (value) => Number(value.toPrecision(3)).toLocaleString(locale, { maximumFractionDigits: 3 });
export const msTick = (value) => (value >= 1000 ? `${short(value / 1000)} s` : `${short(value)} ms`);
export const countTick = (value) => (value >= 10_000 ? `${short(value / 1000)}k` : short(value));

// "8", "2/s" or "∞": how a level is called in tables and on axes.
export const levelText = ({ label }) => (label === "inf" ? "∞" : label);
// "concurrency 8", "2 requests/s", "all at once".
export function levelName({ concurrency, request_rate: rate }) {
  if (concurrency != null) return t("load_at_concurrency", { n: concurrency });
  return rate == null ? t("load_at_once") : t("load_at_rate", { n: rate });
}

export const whenText = (seconds) =>
  seconds == null
    ? UNKNOWN
    : new Date(seconds * 1000).toLocaleString(locale, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

// Notes and failures come in English, with a code and facts of which the page's own words are made, where it has some.
export function noteText({ code, text, message, next_step: step, facts = {} }) {
  const which = code === "load_test" ? facts.why : code;
  const words = t(`load_note_${which}`, facts);
  return words.startsWith("load_note_") ? (text ?? [message, step].filter(Boolean).join(" ")) : words;
}

// "+12.3 %"; of latencies less is better, of throughput more.
export function percent(value) {
  if (value == null) return UNKNOWN;
  const shown = Math.abs(value) < 0.05 ? 0 : value;
  return `${shown > 0 ? "+" : shown < 0 ? "−" : "±"}${figure(Math.abs(shown))} %`;
}

export const isBetter = (metric, value) => (/_ms$|^failed$/.test(metric) ? value < 0 : value > 0);
