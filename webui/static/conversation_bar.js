// The line above the conversation: its title, a new one, and what can be done with this one.
import { compareThis } from "./compare.js";
import { conversationPath, currentConversation, newChat, onConversation } from "./conversation.js";
import { remove, rename, shownTitle, titleKeys } from "./conversation_acts.js";
import { isListOpen, onList, toggleList } from "./conversation_list.js";
import { keepEscape, placeMenu, withArrows } from "./dialog.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { showCode } from "./show_code.js";
import { subscribe } from "./state.js";
import { html, nothing, render } from "./vendor/lit-html.js";

let isRenaming = false;

const focusText = () => document.querySelector("#chat-text textarea")?.focus();

// What fails is told in the chat's own line.
async function guarded(work) {
  try {
    return await work();
  } catch (error) {
    return window.deck.chat.say(error.message, true);
  }
}

function titleField(current) {
  const { onKey, onBlur } = titleKeys(shownTitle(current), (title) => {
    isRenaming = false;
    draw();
    document.querySelector("#conversation-bar .title")?.focus();
    if (title) guarded(() => rename(current.id, title));
  });
  return html`<input class="title-field" maxlength="200" aria-label=${t("title")} .value=${shownTitle(current)}
    @keydown=${onKey} @blur=${onBlur} />`;
}

function beginRenaming() {
  isRenaming = true;
  draw();
  document.querySelector("#conversation-bar .title-field")?.select();
}

function title(current) {
  if (isRenaming) return titleField(current);
  const text = shownTitle(current);
  if (!current.turns.length) return html`<span class="title plain">${text}</span>`;
  return html`<button class="title" title=${t("rename")} aria-label="${t("rename")}: ${text}" @click=${beginRenaming}>${text}</button>`;
}

const startNew = (options) => {
  newChat(options);
  focusText();
};

function menu(current) {
  const close = () => document.getElementById("conversation-menu")?.hidePopover();
  const entry = (label, run, { disabled = false, kind = "" } = {}) =>
    html`<button role="menuitem" class=${kind} ?disabled=${disabled} @click=${() => {
      close();
      guarded(run);
    }}>${label}</button>`;
  const download = (format, label) =>
    html`<a role="menuitem" aria-disabled=${empty} href=${empty ? nothing : conversationPath(current.id, `/export?format=${format}`)}
      download @click=${close}>${label}</a>`;
  const empty = !current.turns.length;
  return html`<div id="conversation-menu" class="deck-menu" popover role="menu" aria-label=${t("conversation_more")}
    @toggle=${(event) => placeMenu(event, document.getElementById("conversation-more"))}
    @keydown=${(event) => {
      keepEscape(event);
      withArrows(event, "[role=menuitem]");
    }}>
    ${entry(t("temporary_chat"), () => startNew({ keep: false }))}
    <hr />
    ${entry(t("show_as_code"), showCode)} ${entry(t("compare_models"), compareThis)}
    <hr />
    ${download("md", t("export_md"))} ${download("json", t("export_json"))}
    <hr />
    ${entry(t("rename"), beginRenaming, { disabled: empty })}
    ${entry(t("delete_for_good"), () => remove({ id: current.id, title: shownTitle(current) }), { disabled: empty, kind: "danger" })}
  </div>`;
}

function draw() {
  const box = document.getElementById("conversation-bar");
  if (!box) return;
  const current = currentConversation();
  render(
    html`<button class="icon" id="conversation-list-button" title=${t("conversations")} aria-label=${t("conversations")}
        aria-expanded=${isListOpen()} aria-controls="conversation-list" @click=${toggleList}>${icon("list")}</button>
      ${title(current)}
      ${current.keep ? nothing : html`<span class="chip" title=${t("temporary_info")}>${t("temporary")}</span>`}
      <button class="btn small" id="conversation-new" @click=${() => startNew()}>${icon("plus")}<span>${t("new_chat")}</span></button>
      <button class="icon" id="conversation-more" popovertarget="conversation-menu" aria-haspopup="menu"
        title=${t("conversation_more")} aria-label=${t("conversation_more")}>${icon("more")}</button>
      ${menu(current)}`,
    box,
  );
}

export function startBar() {
  onConversation((what) => {
    if (what === "opened") isRenaming = false;
    if (!isRenaming) draw();
  });
  onList(draw);
  subscribe(() => isRenaming || draw()); // Gradio may make the place to draw in later
}
