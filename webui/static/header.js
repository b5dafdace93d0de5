// The header: the picked model's state, the memory of each GPU (or of the machine), tokens per second.
import { post, serverPath } from "./api.js";
import { UNKNOWN, gib, integer } from "./format.js";
import { t } from "./i18n.js";
import { bar, ledgerOf, usedOf } from "./ledger.js";
import { shortText, startText } from "./phases.js";
import { changed, isLive, refresh, server, state, subscribe } from "./state.js";
import { costText, shortWaiting, stateText, waitingText } from "./switching.js";
import { recall, recallHere, remember } from "./tab.js";
import { html, nothing, render } from "./vendor/lit-html.js";

let shownChoices = "";
let shownKinds = "";

export const chip = (status) =>
  status ? html`<span class="chip chip-${status.state}">${stateText(status)}</span>` : nothing;

function meters() {
  const { devices } = state.snapshot;
  if (!devices.length) return html`<div class="meter">${meter(t("memory_short"), null)}</div>`;
  return devices.map(
    (device, i) =>
      html`<div class="meter" title=${device.error ?? device.name ?? ""}>
        ${device.error
          ? html`<span class="cap">GPU ${device.index}</span><span class="cap bad">${t("gpu_lost")}</span>`
          : meter(`GPU ${device.index}`, i)}
      </div>`,
  );
}

function meter(label, position) {
  const ledger = ledgerOf(position);
  return html`<span class="cap">${label}</span>${bar(ledger, position)}<span class="cap"
      ><b>${usedOf(ledger)}</b> / ${gib(ledger.total_bytes)} GiB</span
    >`;
}

function tokensPerSecond() {
  const rates = state.snapshot.servers.map((s) => s.metrics?.tokens_per_second).filter((rate) => rate != null);
  return rates.length ? integer(rates.reduce((a, b) => a + b, 0)) : UNKNOWN;
}

function keepSwitch() {
  const keep = localStorage.getItem("deck-keep") === "yes";
  const onChange = (event) => localStorage.setItem("deck-keep", event.target.checked ? "yes" : "no");
  return html`<label class="keep" title=${t("keep_info")}
    ><input type="checkbox" ?checked=${keep} @change=${onChange} />${t("keep")}</label
  >`;
}

function toggleTheme() {
  const dark = document.body.classList.toggle("dark");
  localStorage.setItem("deck-theme", dark ? "dark" : "light");
  changed();
}

// What the chosen model waits for, or how far its start is.
function goingOn(status) {
  if (status?.waiting) {
    return html`<span class="cap phase" title=${waitingText(status.waiting)}>${shortWaiting(status.waiting)}</span>`;
  }
  if (status?.state !== "starting") return nothing;
  return html`<span class="cap phase" title=${startText(status)}>${shortText(status)}</span>`;
}

function draw() {
  const target = document.getElementById("deck-live");
  if (!target) return;
  const status = server(state.model);
  render(
    html`<div class="live-row">
      <span class="model-state">
        ${chip(status)}
        ${goingOn(status)}
      </span>
      <span class="meters">${meters()}</span>
      <span class="cap rate"><b>${tokensPerSecond()}</b> tok/s</span>
      ${state.me?.role === "operator" ? keepSwitch() : nothing}
      <button class="icon" title=${t("theme")} aria-label=${t("theme")} @click=${toggleTheme}>◐</button>
      ${state.me?.login ? html`<form method="post" action="/logout"><button class="icon cap">${t("logout")}</button></form>` : nothing}
    </div>
    ${(state.snapshot.notices ?? []).map((text) => html`<div class="banner bad" role="alert">${text}</div>`)}
    ${state.offline ? html`<div class="banner bad" role="alert">${t("app_gone")}</div>` : nothing}`,
    target,
  );
  offerChoices();
}

// The dropdown's entries say what each pick costs; set only when one has changed, since it redraws the list.
function offerChoices() {
  const kinds = JSON.stringify([state.model, state.snapshot.servers.map((s) => [s.name, s.state, s.moving, s.switch_cost?.kind])]);
  // Seconds alone do not redraw it under the hand of somebody who is choosing.
  if (kinds === shownKinds && shownChoices && document.querySelector("#model-picker [role=option]")) return;
  const choices = state.snapshot.servers.map((s) => {
    const cost = costText(s);
    return [cost ? `${s.name} · ${cost}` : s.name, s.name];
  });
  const now = JSON.stringify([choices, state.model]);
  shownKinds = kinds;
  if (now === shownChoices) return;
  shownChoices = now;
  window.deck.set("picker", { __type__: "update", choices, value: state.model });
}

// The dropdown was used: brings the model up and moves the chat over. Where room has to be made, the model before is
// the first to make it, or none of those that do if it is to be kept.
export async function pick(name) {
  const before = state.model;
  if (!name || !server(name) || name === before) {
    shownChoices = ""; // something else was typed: the dropdown goes back to what is chosen
    return changed();
  }
  choose(name);
  if (state.me?.role !== "operator" || server(name).attached) return;
  const other = isLive(server(before)) ? before : null;
  const wish = localStorage.getItem("deck-keep") === "yes" ? { sparing: other } : { leaving: other };
  try {
    await post(serverPath(name, "/start"), wish);
  } catch (error) {
    window.deck.chat.say(error.message, true);
  }
  await refresh();
}

export function choose(name) {
  state.model = name;
  remember("deck-model", name);
  changed();
}

// The model to begin with: the one of this tab before its reload, else the one picked last if it is up, else one that
// is up or starting, else what the app offers.
function chooseFirst() {
  if (state.model || !state.snapshot) return;
  const { servers } = state.snapshot;
  const here = recallHere("deck-model");
  if (server(here)) return choose(here);
  const mine = recall("deck-model");
  const live = servers.find((s) => s.state === "ready") ?? servers.find((s) => s.state === "starting");
  const found = (isLive(server(mine)) ? mine : null) ?? live?.name ?? (server(mine) ? mine : null) ?? state.snapshot.default_model;
  if (found) choose(found);
}

export function startHeader() {
  subscribe(chooseFirst);
  subscribe(draw);
}
