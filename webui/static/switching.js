// What is said of switching models: what a pick costs, who waits for whom, who wakes.
import { duration, memory, ordinal, roughly } from "./format.js";
import { startText } from "./phases.js";
import { t } from "./i18n.js";

const STEP_S = 4; // what is left of a start is told anew only once it has moved by so much
const told = new Map(); // by server: what was said last to be left of its start

// "asleep" of a server that is about to change: "waking".
export const stateText = (s) => t(`state_${s.moving ?? s.state}`);

function left(name, seconds) {
  if (!(Math.abs(seconds - told.get(name)) < STEP_S)) told.set(name, seconds);
  return told.get(name) < 7.5 ? "5 s" : roughly(Math.max(10, told.get(name)));
}

// As hubs give it: "15.2 GB", "270 MB".
const onHub = (bytes) => (bytes < 1e9 ? `${Math.ceil(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`);

// For the list of models: "ready", "asleep, 0.4 s", "starting, about 40 s left", "cold, about 70 s".
export function costText(s) {
  const { kind, seconds, download_bytes: bytes } = s.switch_cost ?? {};
  if (kind !== "starting") told.delete(s.name);
  if (s.moving || ["ready", "failed", "stopping"].includes(s.state)) return stateText(s);
  if (!kind) return s.state === "stopped" ? "" : stateText(s);
  if (kind === "download") return bytes ? t("cost_download_of", { size: onHub(bytes) }) : t("cost_download");
  if (seconds == null) return t(`cost_${kind}`);
  return t(`cost_${kind}_s`, { d: kind === "starting" ? left(s.name, seconds) : roughly(seconds) });
}

// Of a server in the queue: "2nd in line, after alpha", "waiting for the answers of alpha to end, and for beta to have started".
export function waitingText({ position, behind, reasons }) {
  const listed = (names) => names.join(t("list_comma"));
  if (!reasons.length) return t("waits_turn", { nth: ordinal(position + 1), names: listed(behind) });
  const parts = [...new Set(reasons)].map((reason) =>
    t(`waits_${reason}`, { names: listed(behind.filter((name, i) => reasons[i] === reason)) }),
  );
  return parts.join(t("list_and"));
}

// The same where there is little room: "2nd in line", "waits for alpha".
export const shortWaiting = ({ position, behind, reasons }) =>
  reasons.length ? t("waits_short", { names: behind.join(t("list_comma")) }) : t("waits_short_turn", { nth: ordinal(position + 1) });

// In the place of an answer, until its server is ready.
export function untilReady(s, waited_s) {
  const { name } = s;
  if (s.waiting) return t("waking_waits", { name, what: waitingText(s.waiting), d: duration(waited_s) });
  if (s.state === "asleep") return t("waking_model", { name });
  if (s.state === "ready") return t("waits_next", { name, d: duration(waited_s) });
  return `${t("starting_model", { name })} ${startText(s)}`;
}

// Facts for a card.
export function sleepFacts(s) {
  if (s.state !== "asleep") return [];
  const level = s.sleep?.level ?? 1;
  const { seconds } = s.switch_cost ?? {};
  return [
    seconds == null ? t("asleep_at", { level }) : t("asleep_wakes", { level, d: roughly(seconds) }),
    s.gpu_bytes != null && t("asleep_holds", { size: memory(s.gpu_bytes) }),
  ].filter(Boolean);
}

// What a GPU holds of it: beside what it was planned to hold, where both are known.
export function gpuFact(s) {
  if (!s.gpu_bytes) return s.gpu_estimate_bytes ? `GPU ≈ ${memory(s.gpu_estimate_bytes)}` : "";
  if (s.state === "ready" && s.planned_bytes)
    return t("planned_holds", { planned: memory(s.planned_bytes), size: memory(s.gpu_bytes) });
  return `GPU ${memory(s.gpu_bytes)}`;
}
