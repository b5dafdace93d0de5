// The list of conversations: beside the chat where there is room, else over it. Newest first, by day; searched by the app.
import { get } from "./api.js";
import { currentConversation, onConversation, openConversation } from "./conversation.js";
import { onActs, remove, removeAll, rename, titleKeys } from "./conversation_acts.js";
import { keepEscape, withArrows } from "./dialog.js";
import { locale, t } from "./i18n.js";
import { icon } from "./icons.js";
import { subscribe } from "./state.js";
import { html, nothing, render } from "./vendor/lit-html.js";

const MOST = 500; // older ones are found by searching
const TYPING_MS = 200; // a pause in typing after which is searched
const CALM_MS = 200; // after an answer: the chat draws first
const DAY_MS = 86_400_000;
const beside = matchMedia("(min-width: 1100px)");
const listeners = new Set();
const view = { open: false, sought: "", entries: null, error: null, renaming: null, note: null };
let asked = 0;
let typing = null;

export const isListOpen = () => view.open;
export const onList = (listener) => listeners.add(listener);
const box = () => document.getElementById("conversation-list");

// Looks again, if somebody sees it.
function refreshList() {
  if (view.open) load();
}

async function load() {
  const mine = ++asked;
  try {
    const sought = view.sought.trim();
    const query = new URLSearchParams({ limit: MOST, ...(sought && { q: sought }) });
    const found = await get(`/api/conversations?${query}`);
    if (mine !== asked) return; // something else was typed meanwhile
    Object.assign(view, { entries: found, error: null });
  } catch (error) {
    if (mine !== asked) return;
    view.error = error;
  }
  draw();
}

export function toggleList() {
  return view.open ? close() : open();
}

function open() {
  const dialog = box();
  if (!dialog) return;
  view.open = true;
  if (beside.matches) dialog.show();
  else dialog.showModal();
  localStorage.setItem("deck-list", "open");
  changed();
  load();
  if (beside.matches) dialog.querySelector("input[type=search]").focus(); // on a phone the keyboard would cover the list
}

const close = () => box()?.close();

function changed() {
  draw();
  for (const listener of listeners) listener();
}

function closed() {
  view.open = false;
  view.renaming = null;
  if (beside.matches) localStorage.setItem("deck-list", "");
  changed();
  document.getElementById("conversation-list-button")?.focus();
}

async function guarded(work) {
  view.note = null;
  try {
    await work();
  } catch (error) {
    view.note = error.message;
  }
  draw();
}

const show = (id) =>
  guarded(async () => {
    if (id !== currentConversation().id) await openConversation(id);
    if (!beside.matches) close();
  });

// "Today", "Yesterday", else the date.
function dayOf(seconds) {
  const then = new Date(seconds * 1000);
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (then >= midnight) return t("today");
  if (then >= midnight - DAY_MS) return t("yesterday");
  const year = then.getFullYear() === new Date().getFullYear() ? undefined : "numeric";
  return then.toLocaleDateString(locale, { day: "numeric", month: "long", year });
}

function byDay(entries) {
  const days = [];
  for (const entry of entries) {
    const day = dayOf(entry.updated);
    if (days.at(-1)?.day !== day) days.push({ day, entries: [] });
    days.at(-1).entries.push(entry);
  }
  return days;
}

function renameField(entry) {
  const { onKey, onBlur } = titleKeys(entry.title, (title) => {
    view.renaming = null;
    draw();
    box().querySelector(`[data-id="${entry.id}"] button.open`)?.focus();
    if (title) guarded(() => rename(entry.id, title));
  });
  return html`<input class="title-field" maxlength="200" aria-label=${t("title")} .value=${entry.title}
    @keydown=${onKey} @blur=${onBlur} />`;
}

function beginRenaming(entry) {
  view.renaming = entry.id;
  draw();
  box().querySelector(".title-field")?.select();
}

function row(entry) {
  const isShown = entry.id === currentConversation().id;
  const title = entry.title || t("untitled");
  const tool = (name, label, run, kind = "") =>
    html`<button class="icon ${kind}" title=${label} aria-label="${label}: ${title}" @click=${run}>${icon(name)}</button>`;
  return html`<li class=${isShown ? "row shown" : "row"} data-id=${entry.id}>
    ${view.renaming === entry.id
      ? renameField(entry)
      : html`<button class="open" aria-current=${isShown ? "true" : nothing} title=${title} @click=${() => show(entry.id)}>
            <span class="name">${title}</span><span class="cap">${entry.model ?? ""}</span>
          </button>
          <span class="tools"
            >${tool("edit", t("rename"), () => beginRenaming(entry))}
            ${tool("bin", t("delete_for_good"), () => guarded(() => remove({ ...entry, title })), "danger")}</span
          >`}
  </li>`;
}

function rows() {
  if (view.error)
    return html`<div class="banner bad" role="alert">${view.error.message}
      <p><button class="btn small" @click=${load}>${t("try_again")}</button></p></div>`;
  if (!view.entries) return html`<div class="empty">${t("loading")}</div>`;
  if (!view.entries.length) return html`<div class="empty">${view.sought ? t("nothing_found") : t("no_conversations")}</div>`;
  const isCut = view.entries.length >= MOST;
  return html`${byDay(view.entries).map(({ day, entries }) => html`<h4>${day}</h4><ul>${entries.map(row)}</ul>`)}
    ${isCut ? html`<p class="cap">${t("list_cut", { n: MOST })}</p>` : nothing}`;
}

function search(event) {
  view.sought = event.target.value; // with the space before the next word
  clearTimeout(typing);
  typing = setTimeout(load, TYPING_MS);
}

function draw() {
  const dialog = box();
  if (!dialog) return;
  render(
    html`<div class="list-head">
        <b>${t("conversations")}</b>
        <button class="icon" title=${t("close")} aria-label=${t("close")} @click=${close}>${icon("remove")}</button>
      </div>
      <label class="search">${icon("search")}<input type="search" placeholder=${t("search_conversations")}
        aria-label=${t("search_conversations")} .value=${view.sought} @input=${search} @keydown=${(event) => view.sought && keepEscape(event)} /></label>
      ${view.note ? html`<div class="banner bad" role="alert">${view.note}</div>` : nothing}
      <div class="rows" @keydown=${(event) => withArrows(event, "button.open")}>${view.open ? rows() : nothing}</div>
      <div class="off-screen" role="status">${view.open && view.sought && view.entries ? t("found_n", { n: view.entries.length }) : ""}</div>
      ${view.entries?.length && !view.sought
        ? html`<button class="link cap" id="delete-all" @click=${() => guarded(removeAll)}>${t("delete_all")}</button>`
        : nothing}`,
    dialog,
  );
}

// Gradio makes the place to draw in when it mounts the tab.
function connect() {
  const dialog = box();
  if (!dialog || dialog.dataset.connected) return;
  dialog.dataset.connected = "yes";
  dialog.addEventListener("keydown", (event) => dialog.matches(":modal") && keepEscape(event));
  dialog.addEventListener("close", closed);
  dialog.addEventListener("pointerdown", (event) => {
    const { right } = dialog.getBoundingClientRect();
    if (!beside.matches && event.clientX > right) close();
  });
  if (localStorage.getItem("deck-list") && beside.matches) {
    view.open = true;
    dialog.open = true; // unlike show(), it leaves the focus where it is
    load();
  }
  dialog.setAttribute("aria-label", t("conversations"));
  changed();
}

export function startList() {
  subscribe(connect);
  onConversation((what) => {
    if (what !== "turn") draw(); // which one is shown
    setTimeout(refreshList, CALM_MS);
  });
  onActs(refreshList);
  addEventListener("focus", refreshList); // another tab may have changed something
  beside.addEventListener("change", () => view.open && close());
}
