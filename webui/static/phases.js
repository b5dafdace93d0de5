// How far a start is: the bar of its phases on a card, and the same in a line for the header and the chat.
import { duration, phaseText } from "./format.js";
import { t } from "./i18n.js";
import { state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";

const whole = (seconds) => duration(Math.max(1, Math.round(seconds)));
const timeOf = (s, phase) => s.progress?.phases.find((found) => found.phase === phase);

// "about 12 s left", "longer than usual (usually 8 s)", or nothing where there is no estimate.
function left(s) {
  const { progress } = s;
  if (!progress) return "";
  if (progress.overdue && progress.eta_s == null) {
    const usual = timeOf(s, s.phase)?.expected_s;
    return usual >= 1 ? t("longer_than_usual_s", { d: whole(usual) }) : t("longer_than_usual");
  }
  if (progress.eta_s != null) return t("about_left", { d: whole(progress.eta_s) });
  return progress.download?.eta_s != null ? t("download_left", { d: whole(progress.download.eta_s) }) : "";
}

// "loading weights 2/4 · about 12 s left"; without an estimate the seconds since the start was asked for.
export function startText(s) {
  return `${phaseText(s)} · ${left(s) || duration(s.elapsed_s)}`;
}

// The same for the header, where there is little room: "loading weights 2/4 · 12 s left", "downloading 21 %".
export function shortText(s) {
  const { eta_s, download } = s.progress ?? {};
  const counted = s.phase === "download" && download?.total_bytes
    ? `${Math.floor((100 * download.bytes_there) / download.total_bytes)} %`
    : /^\d+\/\d+$/.test(s.detail) ? s.detail : "";
  const phase = s.phase ? t(`phase_${s.phase}`) : t("state_starting");
  const time = eta_s == null ? duration(s.elapsed_s) : t("eta_left", { d: whole(eta_s) });
  return `${[phase, counted].filter(Boolean).join(" ")} · ${time}`;
}

// What each phase takes, or took last time, one a line: the tooltip of the bar.
export function phaseTimes(s) {
  const known = (s.progress?.phases ?? []).filter((found) => found.elapsed_s != null || found.expected_s != null);
  return known
    .map(({ phase, elapsed_s, expected_s }) => {
      const taken = elapsed_s == null ? "" : ` ${elapsed_s.toFixed(1)} s`;
      const before = expected_s == null ? "" : ` (${t("last_time", { d: `${expected_s.toFixed(1)} s` })})`;
      return t(`phase_${phase}`) + taken + before;
    })
    .join("\n");
}

// From the process on where that is known of the last start too: what comes before differs from start to start.
export const startedIn = (s) => {
  const before = s.progress?.last_total_s;
  const text = t("started_in", { d: duration(before ? s.progress.elapsed_s : s.ready_at - s.started_at) });
  return before ? `${text} (${t("last_time", { d: duration(before) })})` : text;
};

// The phases to show, each with its share of the width: by time where that is known, else all alike.
function segments(s) {
  const order = state.snapshot.phases;
  const now = order.indexOf(s.phase);
  const timed = s.progress && s.progress.basis !== "none";
  return order
    .map((phase, i) => {
      const { elapsed_s, expected_s } = timeOf(s, phase) ?? {};
      const place = i < now ? "done" : i === now ? "now" : "";
      // Those that few starts have are there only once they are on.
      const shown = i === now || (timed ? elapsed_s != null || expected_s != null : !["prepare", "download", "first_sleep"].includes(phase));
      const width = timed ? Math.max(expected_s ?? 0, elapsed_s ?? 0, 0.2) : 1;
      const filled = place === "now" && expected_s ? Math.min(0.96, elapsed_s / expected_s) : null;
      return { phase, place, shown, width, filled: s.progress?.overdue ? null : filled };
    })
    .filter(({ shown }) => shown);
}

function segment({ place, width, filled }) {
  const kind = place === "now" && filled != null ? "now timed" : place;
  const fill = filled == null ? "" : `--filled:${(100 * filled).toFixed(1)}%`;
  return html`<i class=${kind} style="flex-grow:${width.toFixed(2)};${fill}"></i>`;
}

const note = ({ progress }) =>
  progress && { none: t("estimate_none"), similar: t("estimate_similar") }[progress.basis];

// The bar of a card, for a server that starts.
export function phases(s) {
  if (s.state !== "starting" || s.phase_index == null) return nothing;
  const percent = s.progress?.fraction == null ? nothing : Math.floor(100 * s.progress.fraction);
  const text = [phaseText(s), left(s)].filter(Boolean).join(" · ");
  return html`<div class="phases" role="progressbar" aria-label=${text} aria-valuemin="0" aria-valuemax="100"
      aria-valuenow=${percent} title=${phaseTimes(s)}>${segments(s).map(segment)}</div>
    <div class="phase-line">
      <span class=${s.progress?.overdue ? "late" : ""}>${text}</span>
      <span class="cap">${percent === nothing ? "" : `${percent} % · `}${duration(s.elapsed_s)}</span>
    </div>
    ${note(s) ? html`<div class="cap">${note(s)}</div>` : nothing}`;
}
