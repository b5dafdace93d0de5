// What servers of a dead app have left on this machine, and other people's vLLM. Operators only.
import { get, post } from "./api.js";
import { duration, memory } from "./format.js";
import { t } from "./i18n.js";
import { receiptText } from "./receipt.js";
import { changed, refresh, state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";

const ASK_AGAIN_MS = 10_000;
const view = { found: null, asked: 0, busy: "", confirming: null, receipts: [], error: "" };

async function load(ask) {
  view.asked = Date.now();
  try {
    view.found = await ask();
    view.error = "";
  } catch (error) {
    view.error = error.message;
  }
  view.asked = Date.now();
  changed();
}

async function lookAgain() {
  view.busy = "scan";
  changed();
  await load(() => post("/api/leftovers/scan"));
  view.busy = "";
  await refresh();
}

async function reclaim(left) {
  view.busy = left.id;
  view.confirming = null;
  changed();
  try {
    view.receipts.unshift(reclaimedText(await post(`/api/leftovers/${encodeURIComponent(left.id)}/reclaim`)));
    view.error = "";
  } catch (error) {
    view.error = error.message;
  }
  view.busy = "";
  const told = view.error;
  await load(() => get("/api/leftovers"));
  view.error ||= told;
  await refresh();
}

function reclaimedText(done) {
  const name = done.name || t("folder");
  const what = done.receipt ? receiptText(done) : t("reclaimed", { s: done.seconds.toFixed(1) });
  if (done.left_pids.length) return t("reclaimed_not_all", { name, pids: done.left_pids.join(", ") });
  return t("reclaimed_of", { name, what });
}

const holds = (entry) =>
  entry.gpus.map((gpu) => `GPU ${gpu.index} ${memory(gpu.held_bytes)}`).join(", ") || (entry.rss_bytes ? `RAM ${memory(entry.rss_bytes)}` : "");

function row(left) {
  const confirming = view.confirming === left.id;
  const ask = left.pids.length ? t("reclaim_confirm", { n: left.pids.length }) : t("reclaim_confirm_folder");
  const show = (id) => () => {
    view.confirming = id;
    changed();
  };
  return html`<div class="leftover-row" data-leftover=${left.id}>
    <span class="what"><b>${left.name ?? t("folder")}</b>
      <span class="cap">${t("since_age", { d: duration(left.age_s) })} · ${[holds(left), left.pids.length ? t("pids", { pids: left.pids.join(", ") }) : left.tmpdir]
        .filter(Boolean)
        .join(" · ")}</span></span>
    <span class="buttons">${confirming
      ? html`<span class="cap">${ask}</span>
          <button class="btn danger" @click=${() => reclaim(left)}>${t("reclaim")}</button>
          <button class="btn" @click=${show(null)}>${t("keep_it")}</button>`
      : html`<button class="btn" ?disabled=${view.busy} @click=${show(left.id)}>${view.busy === left.id ? "…" : t("reclaim")}</button>`}</span>
  </div>`;
}

const code = (text) => {
  const copy = async (event) => {
    if (!navigator.clipboard) return getSelection().selectAllChildren(event.target.previousElementSibling);
    await navigator.clipboard.writeText(text);
    event.target.textContent = t("copied");
  };
  return html`<span class="copy-line"><code>${text}</code><button class="btn small" @click=${copy}>${t("copy")}</button></span>`;
};

function others({ foreign, shared_memory: shared }) {
  if (!foreign.length && !shared) return nothing;
  return html`${foreign.length
      ? html`<h4>${t("foreign_vllm")}</h4>
          <p class="cap">${t("foreign_vllm_info")}</p>
          ${foreign.map(
            (each) => html`<div class="leftover-row"><span class="what"><b>${each.name}</b>
              <span class="cap">${[each.of_deck ? t("another_deck") : t("of_user", { user: each.user }), t("since_age", { d: duration(each.age_s) }), holds(each), `pid ${each.pid}`]
                .filter(Boolean)
                .join(" · ")}</span></span>${each.kill ? code(each.kill) : nothing}</div>`,
          )}`
      : nothing}
    ${shared
      ? html`<h4>${t("shared_memory", { size: memory(shared.bytes) })}</h4>
          <p class="cap">${t("shared_memory_info", { n: shared.names.length })}</p>
          ${code(shared.rm)}`
      : nothing}`;
}

// The card of the GPUs tab; asks the app for what it found while the tab is looked at.
export function leftoversCard() {
  if (state.me?.role !== "operator") return nothing;
  if (Date.now() - view.asked > ASK_AGAIN_MS && !view.busy) load(() => get("/api/leftovers"));
  const { found } = view;
  return html`<section class="deck-card deck-pad leftovers" id="leftovers">
    <div class="deck-card-head"><span>${t("leftovers")}</span>
      <span class="look"><span class="cap">${found?.looked_at ? t("looked", { d: duration(state.snapshot.time - found.looked_at) }) : ""}</span>
        <button class="btn small" ?disabled=${view.busy} @click=${lookAgain}>${view.busy === "scan" ? "…" : t("look_again")}</button></span>
    </div>
    ${view.error ? html`<div class="banner bad" role="alert">${view.error}</div>` : nothing}
    ${view.receipts.map((text) => html`<div class="banner good" role="status">${text}</div>`)}
    ${!found ? html`<p class="cap">…</p>` : found.leftovers.length ? html`<p class="cap">${t("leftovers_info")}</p>${found.leftovers.map(row)}` : html`<p class="cap">${t("leftovers_none")}</p>`}
    ${found ? others(found) : nothing}
  </section>`;
}
