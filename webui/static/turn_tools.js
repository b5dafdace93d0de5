// What stands below a question and below an answer: pictures, the reason why it is not whole, and what can be done.
import { conversationPath, currentConversation } from "./conversation.js";
import { copyTool } from "./copy.js";
import { locale, t } from "./i18n.js";
import { icon } from "./icons.js";
import { html, nothing } from "./vendor/lit-html.js";

// A picture is kept by its id; one that was just sent is still the data itself.
const pictureUrl = (image) =>
  image.startsWith("data:image/") ? image : conversationPath(currentConversation().id, `/images/${encodeURIComponent(image)}`);

export const pictures = (images) =>
  images?.length
    ? html`<div class="turn-images">${images.map((image) => html`<img src=${pictureUrl(image)} alt=${t("attached_image")} loading="lazy" />`)}</div>`
    : nothing;

const tool = (name, label, run, off = false) =>
  html`<button type="button" class="tool" title=${label} aria-label=${label} ?disabled=${off} @click=${run}>${icon(name)}</button>`;

export const questionTools = (turn, { edit }) =>
  html`<div class="turn-tools" role="toolbar" aria-label=${t("question_tools")}>
    ${tool("edit", t("edit"), () => edit(turn))}
  </div>`;

// ‹ 2/3 ›
function alternatives(turn, { select }) {
  const all = turn.siblings ?? [];
  if (all.length < 2) return nothing;
  const at = all.indexOf(turn.id);
  return html`<span class="alternatives" role="group" aria-label=${t("alternatives")}
    >${tool("left", t("alternative_before"), () => select(all[at - 1]), at <= 0)}<span>${at + 1}/${all.length}</span
    >${tool("right", t("alternative_after"), () => select(all[at + 1]), at >= all.length - 1)}</span
  >`;
}

function note(turn, { again }) {
  if (!turn.note) return nothing;
  if (turn.note === "stopped") return html`<div class="turn-note">${t("stopped_note")}</div>`;
  return html`<div class="turn-note bad" role="alert">${turn.note_translations?.[locale] ?? turn.note}
    <button type="button" class="btn small" @click=${() => again(turn)}>${t("try_again")}</button></div>`;
}

export const answerTools = (turn, actions, named) =>
  html`${note(turn, actions)}
    <div class="turn-tools" role="toolbar" aria-label=${t("answer_tools")}>
      ${alternatives(turn, actions)}
      ${turn.assistant ? copyTool(turn.assistant) : nothing}
      ${tool("again", t("regenerate"), () => actions.again(turn))}
      ${tool("branch", t("branch"), () => actions.branch(turn))}
      ${named ? html`<span class="cap">${turn.model}</span>` : nothing}
    </div>`;

// A toolbar is one stop of the Tab key; the arrow keys move within it.
export function moveInToolbar(event) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const bar = event.target.closest?.(".turn-tools");
  if (!step || !bar) return;
  const tools = [...bar.querySelectorAll("button:not(:disabled)")];
  tools[tools.indexOf(event.target) + step]?.focus();
  event.preventDefault();
}

export function oneStop(box) {
  for (const bar of box.querySelectorAll(".turn-tools"))
    [...bar.querySelectorAll("button:not(:disabled)")].forEach((button, i) => (button.tabIndex = i ? -1 : 0));
}
