// The box below the conversation: the text and the pictures that are about to be sent, and the keys that work in it.
import { abilitiesOf } from "./abilities.js";
import { icon } from "./icons.js";
import { conversationPath, currentConversation } from "./conversation.js";
import { t } from "./i18n.js";
import { state, subscribe } from "./state.js";
import { say } from "./status_line.js";
import { html, nothing, render } from "./vendor/lit-html.js";

const MOST_PIXELS = 2048; // of a side: vision models make them smaller still
const MOST_IMAGES = 8;
const box = { images: [], edited: null, draft: null, draftImages: [], at: null }; // edited: the turn whose question is in the box
const drafts = new Map(); // by conversation: what was typed and not sent

const field = () => document.querySelector("#chat-text textarea");
export const typed = () => field()?.value ?? "";
export const focusBox = () => field()?.focus();
export const editedTurn = () => box.edited;
const sayBlind = () => say(t("no_vision", { name: state.model }), true);
export const sees = (model) => abilitiesOf(model)?.vision !== false; // unknown: the server will say

export function setText(text) {
  const element = field();
  if (element) element.value = text; // Gradio takes a moment, and a key may be pressed before
  window.deck.set("text", text);
}

export const inTheBox = () => ({ text: typed().trim(), images: [...box.images], edited: box.edited });

function show() {
  const place = document.getElementById("chat-attached");
  if (!place) return;
  const remove = (at) => {
    box.images.splice(at, 1);
    show();
    focusBox();
  };
  render(
    box.images.length
      ? html`<div class="attached">${box.images.map(
          (image, at) => html`<span class="thumb"><img src=${thumbUrl(image)} alt=${t("attached_image")} /><button
            type="button" class="tool" title=${t("remove_image")} aria-label=${t("remove_image")} @click=${() => remove(at)}>${icon("remove")}</button></span>`,
        )}</div>`
      : nothing,
    place,
  );
}

const thumbUrl = (image) =>
  image.startsWith("data:") ? image : conversationPath(currentConversation().id, `/images/${encodeURIComponent(image)}`);

// What is to be sent; the box is empty then. Null where there is nothing, or the model could not see the pictures.
export function takeQuestion(text) {
  const images = box.images;
  if (!text.trim() && !images.length) return null;
  if (images.length && !sees(state.model)) {
    sayBlind();
    return null;
  }
  return { text: text.trim(), images, edited: box.edited };
}

// The box after its question is sent; returns the text that is in it now, which Gradio is to be told.
export function emptyBox() {
  const text = box.draft ?? "";
  Object.assign(box, { images: box.draftImages, edited: null, draft: null, draftImages: [] });
  if (field()) field().value = text;
  show();
  return text;
}

function leave(text, images = []) {
  Object.assign(box, { images, edited: null, draft: null, draftImages: [] });
  setText(text);
  show();
}

// A question that got no answer comes back, above what was typed meanwhile.
export function giveBack({ text, images }, edited = null, conversation = currentConversation().id) {
  if (conversation !== currentConversation().id) {
    const draft = drafts.get(conversation);
    drafts.set(conversation, {
      text: draft?.text ? `${text}\n${draft.text}` : text,
      images: [...(images ?? []), ...(draft?.images ?? [])],
    });
    return;
  }
  const meanwhile = typed();
  Object.assign(box, { images: [...(images ?? []), ...box.images], edited });
  setText(meanwhile ? `${text}\n${meanwhile}` : text);
  show();
}

// Takes an earlier question into the box; what was being typed waits until it is sent or left.
export function editQuestion(turn) {
  if (!box.edited) Object.assign(box, { draft: typed(), draftImages: box.images });
  Object.assign(box, { edited: turn, images: [...(turn.images ?? [])] });
  setText(turn.user);
  show();
  focusBox();
}

export function leaveEdit() {
  leave(box.draft ?? "", box.draftImages);
}

// Another conversation is shown: each has its own draft.
export function changeDraft(id) {
  if (box.at === id) return;
  if (box.at) drafts.set(box.at, { text: box.edited ? (box.draft ?? "") : typed(), images: box.edited ? box.draftImages : box.images });
  const first = box.at == null;
  box.at = id;
  const { text = "", images = [] } = drafts.get(id) ?? {};
  if (first && !text) return; // what was typed while the page was being built
  leave(text, images);
}

async function attach(files) {
  const images = [...files].filter((file) => file.type.startsWith("image/"));
  if (!images.length) return say(t("only_images"), true);
  if (!sees(state.model)) return sayBlind();
  if (box.images.length + images.length > MOST_IMAGES) return say(t("too_many_images", { n: MOST_IMAGES }), true);
  for (const file of images) {
    try {
      box.images.push(await dataUrl(file));
      say("");
    } catch {
      say(t("not_an_image", { name: file.name }), true);
    }
  }
  show();
  focusBox();
}

// A picture as it is sent: made smaller where it is large.
async function dataUrl(file) {
  const bitmap = await createImageBitmap(file); // raises where it is none
  const share = MOST_PIXELS / Math.max(bitmap.width, bitmap.height);
  const asItIs = share >= 1 && /^image\/(png|jpeg|webp)$/.test(file.type);
  if (asItIs) return read(file);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * Math.min(1, share)));
  canvas.height = Math.max(1, Math.round(bitmap.height * Math.min(1, share)));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL(file.type === "image/jpeg" ? "image/jpeg" : "image/png", 0.9);
}

const read = (file) =>
  new Promise((then, fail) => {
    const reader = new FileReader();
    reader.onload = () => then(reader.result);
    reader.onerror = () => fail(reader.error);
    reader.readAsDataURL(file);
  });

const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

function listenForFiles() {
  const pane = document.getElementById("chat-pane");
  const button = document.getElementById("chat-attach");
  render(icon("image"), button);
  button.title = t("attach");
  button.setAttribute("aria-label", t("attach"));
  button.addEventListener("click", () => (sees(state.model) ? document.getElementById("chat-file").click() : sayBlind()));
  subscribe(() => button.classList.toggle("cannot", !sees(state.model)));
  document.getElementById("chat-file").addEventListener("change", (event) => {
    attach(event.target.files);
    event.target.value = ""; // the same file can be taken again
  });
  pane.addEventListener("paste", (event) => {
    const { files, types } = event.clipboardData ?? {};
    // Spreadsheets and word processors put a picture beside the text that was copied.
    if (!files?.length || (types.includes("text/plain") && types.includes("text/html"))) return;
    event.preventDefault();
    attach(files);
  }, true);
  pane.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    pane.classList.add("dropping");
  });
  for (const end of ["dragleave", "drop"])
    pane.addEventListener(end, (event) => (end === "drop" || !pane.contains(event.relatedTarget)) && pane.classList.remove("dropping"));
  pane.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    attach(event.dataTransfer.files);
  });
}

// `editLast()` takes the last question into the empty box.
export function startComposer({ editLast }) {
  listenForFiles();
  const area = document.getElementById("chat-text");
  // Enter that takes an input method's proposal sends nothing.
  for (const kind of ["keydown", "keypress"])
    area.addEventListener(kind, (event) => (event.isComposing || event.keyCode === 229) && event.stopPropagation(), true);
  area.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowUp" || event.isComposing || typed() || event.shiftKey || box.images.length) return;
    event.preventDefault();
    editLast();
  });
}
