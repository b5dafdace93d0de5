// One server's log: its live end, a search with the hits alone, and a hit among its neighbours. Lines come by position
// in the run, so each look fetches only what is new; the DOM gets new lines and loses old ones, and is never drawn anew.
import { get, serverPath } from "./api.js";
import { integer } from "./format.js";
import { t } from "./i18n.js";
import { server, state } from "./state.js";

const TAIL_LINES = 2000;
const MOST_HITS = 1000;
const MOST_FOLLOWED = 3000; // in the DOM, at the end of a log that grows
const MOST_READ = 20_000; // while somebody reads further up
const AROUND_BYTES = 24 * 1024;
const EARLIER_BYTES = 256 * 1024;

const view = { name: null, source: "current", search: "", level: "all", around: null };
let shown = { cursor: "", run: "", hits: null, leftOut: 0, first: null };
let asking = 0; // the number of the newest question: answers to older ones are dropped
let busy = false;
let following = true;
let current = null; // the hit that the buttons have gone to
let parts = null; // what is drawn in

const operator = () => state.me?.role === "operator";
const filters = () => !view.around && (view.search || view.level !== "all");

function element(tag, properties = {}, ...children) {
  const { dataset, ...rest } = properties;
  const found = Object.assign(document.createElement(tag), rest);
  Object.assign(found.dataset, dataset);
  found.append(...children);
  return found;
}

// Shows the log of a server; with `find` the lines that hold this text.
export function openLog(name, find = null) {
  if (name !== view.name || find != null) {
    Object.assign(view, { name, source: "current", search: find ?? "", level: "all", around: null });
    restart();
  }
  drawLog();
}

export function startLog() {
  setInterval(() => document.hidden || look(), 1000);
}

// Again with each snapshot: Gradio makes the place to draw in when the tab is first opened.
export function drawLog() {
  const target = document.getElementById("server-log");
  if (!target) return;
  if (!parts || !target.contains(parts.box)) build(target);
  const attached = server(view.name)?.attached;
  const note = !view.name
    ? t("pick_a_server")
    : !operator()
      ? t("log_for_operators")
      : attached && view.source !== "app"
        ? t("log_elsewhere", { url: server(view.name).base_url })
        : "";
  parts.note.textContent = note;
  parts.note.hidden = !note;
  parts.tools.hidden = !view.name || !operator();
  parts.frame.hidden = Boolean(note);
  parts.name.textContent = view.name ?? "";
  parts.name.parentElement.hidden = !view.name;
  parts.source.value = view.source;
  parts.level.checked = view.level !== "all";
  if (document.activeElement !== parts.search) parts.search.value = view.search;
  const rest = view.source === "previous" ? "?run=previous" : "";
  parts.download.hidden = view.source === "app" || attached;
  if (view.name) parts.download.href = serverPath(view.name, `/logs/download${rest}`);
}

function build(target) {
  const button = (text, label, run) => element("button", { className: "btn small", textContent: text, title: label, ariaLabel: label, onclick: run });
  const option = (value) => element("option", { value, textContent: t(`log_${value}`) });
  const check = (key, run) => {
    const box = element("input", { type: "checkbox", onchange: () => run(box.checked) });
    return [box, element("label", { className: "keep" }, box, t(key))];
  };
  const [level, levelLabel] = check("log_warnings", (on) => change({ level: on ? "warnings" : "all" }));
  const [wrap, wrapLabel] = check("log_wrap", (on) => parts.box.classList.toggle("nowrap", !on));
  wrap.checked = true;
  const source = element("select", { className: "log-source", ariaLabel: t("log"), onchange: () => change({ source: source.value }) });
  source.append(...["current", "previous", "app"].map(option));
  const search = element("input", { type: "search", placeholder: t("log_search"), ariaLabel: t("log_search"), className: "log-search", maxLength: 200 });
  let typing = null;
  const sought = () => {
    clearTimeout(typing);
    if (search.value.trim() !== view.search) change({ search: search.value.trim() });
  };
  search.oninput = (event) => {
    clearTimeout(typing);
    if (!event.isComposing) typing = setTimeout(sought, 250);
  };
  search.addEventListener("compositionend", sought);
  search.onchange = sought; // left, or Enter: before anything else is asked
  search.onkeydown = (event) => {
    if (event.key === "Enter" && !event.isComposing) step(event.shiftKey ? -1 : 1);
    if (event.key !== "Escape" || !search.value) return;
    event.stopPropagation();
    change({ search: (search.value = "") });
  };
  const count = element("span", { className: "cap log-count", role: "status" });
  const previous = button("▲", t("log_previous_hit"), () => step(-1));
  const next = button("▼", t("log_next_hit"), () => step(1));
  const back = button(t("log_back"), t("log_back"), () => change({}));
  const full = button("⤢", t("log_full"), () => target.classList.toggle("full"));
  target.onkeydown = (event) => event.key === "Escape" && target.classList.remove("full");
  const download = element("a", { className: "btn small log-download", textContent: t("log_download"), download: "" });
  const box = element("pre", { className: "log", tabIndex: 0 });
  const earlier = button(t("log_earlier"), t("log_earlier"), showEarlier);
  earlier.classList.add("log-earlier");
  const toEnd = button(t("log_to_end"), t("log_to_end"), () => (view.around ? change({ search: "", level: "all" }) : scrollToEnd()));
  toEnd.classList.add("log-to-end");
  const note = element("p", { className: "empty" });
  const name = element("span");
  const tools = element("div", { className: "log-tools" }, source, search, count, previous, next, back, levelLabel, wrapLabel, download, full);
  const frame = element("div", { className: "log-frame" }, box, toEnd);
  parts = { note, name, tools, source, search, count, previous, next, back, level, download, box, earlier, toEnd, frame };
  box.addEventListener("scroll", scrolled, { passive: true });
  box.addEventListener("click", clicked);
  target.replaceChildren(element("div", { className: "deck-card-head" }, name), tools, note, frame);
  restart();
}

// Another question about the log: what is on screen goes when its answer is there.
function change(wanted) {
  const mayFollow = !("around" in wanted);
  Object.assign(view, { around: null }, wanted);
  restart();
  following = mayFollow;
  drawLog();
}

function restart() {
  asking += 1;
  busy = false;
  shown = { cursor: "", run: "", hits: null, leftOut: 0, first: null };
  following = true;
  look();
}

const path = (query) =>
  view.source === "app" ? `/api/log?${query}` : serverPath(view.name, `/logs?run=${view.source}&${query}`);

async function look() {
  if (busy || !view.name || !operator() || !parts?.box.isConnected || parts.box.offsetParent == null) return;
  if (server(view.name)?.attached && view.source !== "app") return;
  if (view.around && shown.cursor) return; // neighbours of a hit do not change
  const mine = asking;
  const query = new URLSearchParams({ format: "json", tail: filters() ? MOST_HITS : TAIL_LINES, since: shown.cursor });
  if (view.around) query.set("from", Math.max(0, view.around - AROUND_BYTES));
  else if (filters()) {
    query.set("search", view.search);
    query.set("level", view.level);
  }
  busy = true;
  try {
    const answer = await get(path(query));
    if (mine === asking) take(answer);
  } catch (error) {
    if (mine === asking) fail(error);
  } finally {
    if (mine === asking) busy = false;
  }
}

function fail(error) {
  if (error.code === "offline" && parts.box.childElementCount) return; // the header says so
  parts.box.replaceChildren(error.message);
  shown.cursor = "";
}

function take(answer) {
  const { box } = parts;
  const fresh = !answer.continues || !shown.cursor;
  if (fresh) {
    box.replaceChildren();
    current = null;
    shown.first = answer.lines[0]?.[0] ?? null;
  }
  shown.cursor = answer.cursor;
  const left = answer.hits == null ? 0 : answer.hits - answer.lines.length;
  shown.hits = answer.hits == null ? null : (fresh ? 0 : shown.hits) + answer.hits;
  shown.leftOut = (fresh ? 0 : shown.leftOut) + left;
  box.querySelector(".rest")?.remove();
  const rows = answer.lines.map(row);
  if (left) rows.splice(answer.first_hits, 0, element("div", { className: "log-gap", textContent: t("log_left_out", { n: integer(left) }) }));
  box.append(...rows);
  if (answer.rest && !filters() && !view.around) box.append(element("div", { className: "ln rest", textContent: answer.rest }));
  if (!box.childElementCount) box.textContent = filters() ? t("log_no_hit") : view.source === "current" ? t("no_log") : t("no_log_of_run");
  else if (box.firstChild.nodeType === Node.TEXT_NODE) box.firstChild.remove();
  trim();
  if (fresh && !filters() && shown.first > 0) box.prepend(parts.earlier);
  settle(fresh);
}

// Where to look after new lines have come.
function settle(fresh) {
  const { box } = parts;
  if (view.around && fresh) {
    const target = [...box.querySelectorAll(".ln")].find((line) => Number(line.dataset.at) >= view.around);
    target?.classList.add("target");
    if (target) box.scrollTop = target.offsetTop - box.clientHeight / 2;
    following = false;
  } else if (following && !filters()) scrollToEnd();
  else if (fresh && filters()) step(0);
  tellCount();
  drawState();
}

function row([at, number, level, text]) {
  const line = element("div", { className: `ln ${level}`, dataset: { at } });
  if (number != null) line.append(element("span", { className: "no", textContent: number }));
  if (!view.search) line.append(text);
  else {
    const wanted = new RegExp(view.search.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi");
    let end = 0;
    for (const { 0: hit, index } of text.matchAll(wanted)) {
      line.append(text.slice(end, index), element("mark", { textContent: hit }));
      end = index + hit.length;
    }
    line.append(text.slice(end));
  }
  return line;
}

function trim() {
  const { box } = parts;
  const most = filters() ? 2 * MOST_HITS : following ? MOST_FOLLOWED : MOST_READ;
  if (box.childElementCount <= most + 100) return;
  while (box.childElementCount > most) box.firstElementChild.remove();
  shown.first = Number(box.querySelector(".ln").dataset.at);
  if (!filters()) box.prepend(parts.earlier);
}

async function showEarlier() {
  const mine = asking;
  const before = shown.first;
  following = false;
  const query = new URLSearchParams({ format: "json", tail: MOST_READ, from: Math.max(0, before - EARLIER_BYTES) });
  const answer = await get(path(query)).catch(() => null);
  if (mine !== asking || !answer) return;
  const lines = answer.lines.filter(([at]) => at < before);
  shown.first = lines[0]?.[0] ?? 0;
  const { box } = parts;
  const fromEnd = box.scrollHeight - box.scrollTop;
  parts.earlier.remove();
  box.prepend(...lines.map(row));
  if (shown.first > 0 && lines.length) box.prepend(parts.earlier);
  box.scrollTop = box.scrollHeight - fromEnd; // what was in view stays in view
}

// To the next hit, or the one before; 0: to the last one, which is usually the one that is wanted.
function step(by) {
  const hits = [...parts.box.querySelectorAll(filters() ? ".ln[data-at]" : ".ln:has(mark)")];
  if (!hits.length) return;
  const at = hits.indexOf(current);
  const index = by === 0 || at < 0 ? hits.length - 1 : (at + by + hits.length) % hits.length;
  current?.classList.remove("current");
  current = hits[index];
  current.classList.add("current");
  const { box } = parts;
  const top = current.offsetTop;
  if (top < box.scrollTop || top + current.offsetHeight > box.scrollTop + box.clientHeight)
    box.scrollTop = top - box.clientHeight / 2;
  tellCount(index + 1, hits.length);
}

function tellCount(index = null, shownHits = null) {
  if (!filters()) parts.count.textContent = "";
  else if (!shown.hits) parts.count.textContent = shown.hits === 0 ? t("log_no_hit") : "";
  else {
    const hits = parts.box.querySelectorAll(".ln[data-at]");
    const place = index ?? [...hits].indexOf(current) + 1;
    const all = t("log_hits", { n: integer(shown.hits) });
    parts.count.textContent = place ? `${place} / ${shownHits ?? hits.length}${shown.leftOut ? ` · ${all}` : ""}` : all;
  }
}

function clicked(event) {
  const line = event.target.closest(".ln[data-at]");
  if (!line || !filters() || String(getSelection())) return; // not while text is being selected
  change({ around: Number(line.dataset.at) });
}

const atEnd = () => parts.box.scrollHeight - parts.box.scrollTop - parts.box.clientHeight < 30;

function scrolled() {
  following = atEnd() && !view.around;
  drawState();
}

function scrollToEnd() {
  following = true;
  parts.box.scrollTop = parts.box.scrollHeight;
  drawState();
}

function drawState() {
  parts.toEnd.hidden = filters() || (following && !view.around) || (atEnd() && !view.around);
  parts.previous.hidden = parts.next.hidden = !filters() || !shown.hits;
  parts.back.hidden = !view.around || !(view.search || view.level !== "all");
}
