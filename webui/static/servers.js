// The Servers tab: a card for each model that is up or has failed, a line for the others, and one server's log.
import { post, serverPath } from "./api.js";
import { failureCard } from "./failure.js";
import { duration, integer, memory } from "./format.js";
import { chip, choose } from "./header.js";
import { t } from "./i18n.js";
import { drawLog, openLog, startLog } from "./log.js";
import { phaseTimes, phases, startedIn } from "./phases.js";
import { receiptText, restartText } from "./receipt.js";
import { smokeButton, smokeResult } from "./smoke.js";
import { isLive, refresh, server, state, subscribe } from "./state.js";
import { gpuFact, sleepFacts, waitingText } from "./switching.js";
import { html, nothing, render } from "./vendor/lit-html.js";

const MOST_SOUGHT = 120; // characters: enough to find a line
const view = { selected: null, message: {} };

const visible = (id) => document.getElementById(id)?.offsetParent != null;
const operator = () => state.me?.role === "operator";

async function act(name, action, body) {
  view.message[name] = "";
  try {
    const done = await post(serverPath(name, `/${action}`), body);
    if (action === "stop" && done.exit && done.stopped) view.message[name] = receiptText(done.exit);
  } catch (error) {
    view.message[name] = error.message;
  }
  await refresh();
}

export function select(name) {
  if (name !== view.selected) window.deck.form.load(name); // not again for the same: it may be in work
  view.selected = name;
  openLog(name);
  draw();
}

// From another tab of the page.
export function showServer(name) {
  for (const tab of document.querySelectorAll('#deck-tabs > .tab-wrapper button[role="tab"]'))
    if (tab.textContent.trim() === t("tab_servers")) tab.click();
  if (!name) return;
  select(name);
  // Once the tab is shown and drawn.
  requestAnimationFrame(() => requestAnimationFrame(() =>
    document.querySelector(`#server-list [data-server="${CSS.escape(name)}"]`)?.scrollIntoView({ block: "start", behavior: "smooth" })));
}

function facts(s) {
  const found = [];
  if (s.attached) found.push(t("attached_to", { url: s.base_url }));
  if (s.state === "ready") found.push(t("up_for", { d: duration(s.elapsed_s) }));
  if (s.port) found.push(`${t("port")} ${s.port}`);
  if (s.pid) found.push(`pid ${s.pid}`);
  if (s.state === "asleep") found.push(...sleepFacts(s));
  else if (gpuFact(s)) found.push(gpuFact(s));
  if (s.rss_bytes) found.push(`RAM ${memory(s.rss_bytes)}`);
  if (s.max_model_len) found.push(t("context_length", { n: integer(s.max_model_len) }));
  if (s.metrics)
    found.push(t("requests", { n: s.metrics.num_requests_running ?? 0, w: s.metrics.num_requests_waiting ?? 0 }));
  if (s.metrics?.kv_cache_usage_perc != null)
    found.push(`${t("kv_cache")} ${(100 * s.metrics.kv_cache_usage_perc).toFixed(1)} %`);
  if (s.state === "ready" && s.started_at && s.ready_at && s.ready_at > s.started_at)
    found.push(startedIn(s));
  if (s.kept) found.push(t("kept"));
  if (s.restart && isLive(s)) found.push(restartText(s));
  if (s.trust_remote_code) found.push(t("trusts_remote_code"));
  return found.join(" · ");
}

function buttons(s) {
  const button = (label, run, kind = "") => html`<button class="btn ${kind}" @click=${run}>${label}</button>`;
  const log = button(t("log"), () => select(s.name));
  const smoke = smokeButton(s, draw);
  if (!operator()) return nothing;
  if (s.attached) return html`<span class="buttons">${smoke}</span>`;
  const start = button(t("start"), () => act(s.name, "start"), "primary");
  const stop = (label) => button(label, () => act(s.name, "stop"));
  const chatWith = button(t("chat"), () => {
    choose(s.name);
    document.querySelector('#deck-tabs > .tab-wrapper button[role="tab"]')?.click();
  });
  const byState = {
    starting: [stop(t("cancel"))],
    ready: [chatWith, smoke, s.sleep?.frees_memory ? button(t("put_to_sleep"), () => act(s.name, "sleep")) : nothing, stop(t("stop"))],
    asleep: [smoke, button(t("wake"), () => act(s.name, "wake")), stop(t("stop"))],
    stopping: [],
    failed: s.restart?.at ? [stop(t("restart_cancel")), start] : [start],
    stopped: [start],
  };
  return html`<span class="buttons">${log}${byState[s.state]}</span>`;
}

// The log with the line that proves the diagnosis; all of it where there is no such line.
function showProof(s) {
  select(s.name);
  const { evidence, line } = s.exit.diagnosis ?? {};
  if (line) openLog(s.name, evidence.split("\n")[0].trim().slice(0, MOST_SOUGHT));
  document.getElementById("server-log")?.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function failure(s) {
  if (s.state !== "failed" || !s.exit) return nothing;
  const more = html`${s.exit.receipt ? html`<div class="cap">${receiptText(s.exit)}</div>` : nothing}
    ${s.restart ? html`<div class="cap" role="status">${restartText(s)}</div>` : nothing}`;
  if (!operator()) return html`${failureCard(s.exit)}${more}`;
  const tryFix = (fix, value) => act(s.name, "retry", { fix, value });
  return html`${failureCard(s.exit, { tryFix, showLog: () => showProof(s) })}${more}`;
}

function command(s) {
  if (!s.command || !operator()) return nothing;
  const copy = async (event) => {
    if (!navigator.clipboard) return getSelection().selectAllChildren(event.target.previousElementSibling);
    await navigator.clipboard.writeText(s.command);
    event.target.textContent = t("copied");
  };
  return html`<details class="command">
    <summary>${t("command")}</summary>
    <pre>${s.command}</pre>
    <button class="btn small" @click=${copy}>${t("copy")}</button>
  </details>`;
}

const card = (s) =>
  html`<article class="server-card ${s.state} ${view.selected === s.name ? "selected" : ""}" data-server=${s.name}>
    <header><b>${s.name}</b>${chip(s)}${buttons(s)}</header>
    <div class="cap" title=${s.state === "ready" ? phaseTimes(s) : ""}>${facts(s)}</div>
    ${s.waiting ? html`<div class="cap" role="status">${waitingText(s.waiting)}</div>` : phases(s)} ${failure(s)}
    ${view.message[s.name] ? html`<div class="cap message" role="status">${view.message[s.name]}</div>` : nothing}
    ${smokeResult(s, draw)} ${command(s)}
  </article>`;

const line = (s) =>
  html`<div class="server-line ${view.selected === s.name ? "selected" : ""}" data-server=${s.name}>
    <button class="name" @click=${() => select(s.name)}>${s.name}</button>
    <span class="cap">${view.message[s.name] || (s.exit ? receiptText(s.exit) : "")}</span>
    ${buttons(s)}
  </div>`;

function draw() {
  const target = document.getElementById("server-list");
  if (!target || !state.snapshot || !visible("server-list-box")) return;
  const { servers } = state.snapshot;
  const open = servers.filter((s) => isLive(s) || s.state === "failed" || s.attached);
  const rest = servers.filter((s) => !open.includes(s));
  render(
    html`${(state.snapshot.problems ?? []).map((text) => html`<div class="banner bad" role="alert">${text}</div>`)}
      ${open.length ? open.map(card) : html`<p class="empty">${t("no_servers")}</p>`}
      <div class="server-lines">${rest.map(line)}</div>`,
    target,
  );
  drawLog();
}

export function startServers() {
  subscribe(draw);
  subscribe(() => {
    if (view.selected || !state.model || !visible("server-list-box") || !server(state.model)) return;
    window.deck.form.loadFirst(state.model);
    view.selected = state.model;
    select(state.model);
  });
  startLog();
  // A tab that is opened has been hidden until now: nothing was drawn there.
  document.addEventListener("click", () => requestAnimationFrame(draw));
}
