// Who holds the memory: the bar of a GPU (or of the machine), its legend, and what one owner is.
// The figures come from the app (`ledger` of the snapshot); nothing is computed here but widths.
import { UNKNOWN, duration, gib, integer, memory } from "./format.js";
import { t } from "./i18n.js";
import { changed, server, state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";

const view = { picked: null }; // "<device index>/<key>" of the owner whose details are shown

// The ledger at a position of `devices`, or of the machine where none is given.
export const ledgerOf = (position) =>
  (position == null ? state.snapshot.ledger?.host : state.snapshot.ledger?.devices[position]) ?? { owners: [] };

const keyOf = (owner) => `${owner.kind}:${owner.leftover_id ?? owner.name ?? ""}:${owner.kind === "process" ? owner.pids[0] : ""}`;

// Each server keeps its colour on every bar: that of its place among those that are up.
function colour(name) {
  const names = state.snapshot.servers.filter((s) => s.pids?.length).map((s) => s.name);
  return `own-${Math.max(0, names.indexOf(name)) % 4}`;
}

const swatch = (owner, part) => {
  if (owner.kind !== "server") return owner.kind;
  return part?.kind === "asleep" ? "own-asleep" : `${colour(owner.name)} part-${part?.kind ?? "weights"}`;
};

function nameOf(owner, position) {
  if (owner.kind === "others" && position == null) return t("others"); // of the machine: nothing is hidden there
  if (owner.kind === "server") return owner.parts[0]?.kind === "asleep" ? `${owner.name} · ${t("part_asleep")}` : owner.name;
  if (owner.kind === "leftover") return t("left_of", { name: owner.name });
  if (owner.kind === "process") return owner.name ?? t("pid_unseen", { pid: owner.pids[0] });
  return t(`owner_${owner.kind}`);
}

const size = (owner) => `${owner.estimated ? "≈ " : ""}${owner.held_bytes == null ? t("unknown_size") : memory(owner.held_bytes)}`;
const partText = (part) => `${t(`part_${part.kind}`)} ${part.about ? "≈ " : ""}${memory(part.held_bytes)}`;
const isSplit = (owner) => owner.parts.some((part) => !["unsplit", "asleep"].includes(part.kind));
const summary = (owner, position) =>
  [`${nameOf(owner, position)}: ${owner.estimated ? "≈ " : ""}${gib(owner.held_bytes, 2)} GiB`, ...(isSplit(owner) ? owner.parts.map(partText) : [])].join(" · ");

// `onPick` makes the owners clickable; without it the bar is the header's small one.
export function bar(ledger, position, onPick) {
  const total = ledger.total_bytes;
  if (!total || !ledger.owners.length) return html`<div class="bar"></div>`;
  const shown = ledger.owners.filter((owner) => owner.kind !== "free" && owner.held_bytes);
  const share = (bytes, whole) => `width:${Math.min(100, (100 * bytes) / whole).toFixed(3)}%`;
  return html`<div class="bar" role="img" aria-label=${ledger.owners.map((owner) => summary(owner, position)).join("; ")}>
    ${shown.map(
      (owner) => html`<span class="owner ${isPicked(position, owner) && onPick ? "picked" : ""}" data-owner=${owner.name ?? owner.kind}
        data-kind=${owner.kind} style=${share(owner.held_bytes, total)} title=${summary(owner, position)}
        @click=${onPick ? () => onPick(owner) : null}
        >${owner.parts.length
          ? owner.parts.map((part) => html`<i class=${swatch(owner, part)} style=${share(part.held_bytes, owner.held_bytes)}></i>`)
          : html`<i class=${swatch(owner)} style="width:100%"></i>`}</span>`,
    )}
  </div>`;
}

const place = (position) => position ?? "host";
const isPicked = (position, owner) => view.picked === `${place(position)}/${keyOf(owner)}`;

function pick(position, owner) {
  view.picked = isPicked(position, owner) ? null : `${place(position)}/${keyOf(owner)}`;
  changed();
}

// Every owner with its size; pressing one tells more.
export function legend(ledger, position, { small = false } = {}) {
  const entry = (owner) => {
    const inside = html`<i class=${swatch(owner, owner.parts[0])}></i><span>${nameOf(owner, position)} <b>${size(owner)}</b>${!small && isSplit(owner)
      ? html`<span class="parts">${owner.parts.map((part) => html`<span><i class=${swatch(owner, part)}></i>${partText(part)}</span>`)}</span>`
      : nothing}</span>`;
    return small
      ? html`<span>${inside}</span>`
      : html`<button type="button" aria-pressed=${isPicked(position, owner)} data-owner=${owner.name ?? owner.kind}
          @click=${() => pick(position, owner)}>${inside}</button>`;
  };
  return html`<div class="legend ledger">${ledger.owners.map(entry)}</div>`;
}

function told(owner) {
  const pids = owner.pids.length ? t("pids", { pids: owner.pids.join(", ") }) : "";
  switch (owner.kind) {
    case "server": {
      const known = server(owner.name);
      const tokens = known?.memory?.kv_cache_tokens;
      return [
        known ? t(`state_${known.state}`) : "",
        ...owner.parts.map((part) => `${partText(part)}: ${t(`part_${part.kind}_info`)}`),
        tokens && owner.parts.some((part) => part.kind === "kv_cache") ? t("kv_tokens", { n: integer(tokens) }) : "",
        owner.held_bytes == null ? t("unknown_size_info") : "",
        pids,
      ];
    }
    case "process":
      return [
        owner.vllm ? t("vllm_not_ours") : t("process_not_ours"),
        pids,
        owner.user ? t("of_user", { user: owner.user }) : "",
        owner.started_at ? t("since_age", { d: duration(state.snapshot.time - owner.started_at) }) : "",
        owner.held_bytes == null ? t("unknown_size_info") : "",
      ];
    case "leftover":
      return [t("owner_leftover_info"), pids];
    default:
      return [t(`owner_${owner.kind}_info`)];
  }
}

function details(ledger, position) {
  const owner = ledger.owners.find((each) => isPicked(position, each));
  if (!owner) return nothing;
  return html`<div class="owner-details" role="status">
    <b>${nameOf(owner, position)}</b> ${size(owner)}
    ${told(owner).filter(Boolean).map((line) => html`<div>${line}</div>`)}
  </div>`;
}

// The whole: bar, how it was told apart, legend, details.
export function ledgerView(position) {
  const ledger = ledgerOf(position);
  if (!ledger.owners.length) return html`<p class="cap">${t("memory_unknown")}</p>`;
  const note = ledger.basis === "processes" ? "" : t(`ledger_${ledger.basis}`);
  return html`${bar(ledger, position, (owner) => pick(position, owner))}
    ${note ? html`<div class="cap ledger-note">${note}</div>` : nothing} ${legend(ledger, position)} ${details(ledger, position)}`;
}

export const usedOf = (ledger) => (ledger.used_bytes == null ? UNKNOWN : gib(ledger.used_bytes));
