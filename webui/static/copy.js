// Copying into the clipboard, and the buttons for it.
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { html } from "./vendor/lit-html.js";

const TOLD_MS = 1500; // how long a button shows how it went

// For an answer: a small button whose picture becomes a tick.
export const copyTool = (text) =>
  html`<button type="button" class="tool copy" title=${t("copy_answer")} aria-label=${t("copy_answer")} @click=${({ currentTarget }) => copyByTool(currentTarget, text)}>${icon("copy")}${icon("check")}</button>`;

async function copyByTool(button, text) {
  const done = await copyText(text);
  const tell = (label) => Object.assign(button, { title: label, ariaLabel: label });
  tell(t(done ? "copied" : "copy_failed"));
  button.classList.add(done ? "copied" : "not-copied");
  setTimeout(() => {
    tell(t("copy_answer"));
    button.classList.remove("copied", "not-copied");
  }, TOLD_MS);
}

// For a command or a piece of code: a button with words.
export async function copyByWords(button, text) {
  button.textContent = t((await copyText(text)) ? "copied" : "copy_failed");
  setTimeout(() => (button.textContent = t("copy")), TOLD_MS);
}

// Puts text into the clipboard, also on a page without HTTPS, where the browser's own way is missing. False where the
// browser allows neither.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const before = document.activeElement;
  const box = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
  box.style.cssText = "position: fixed; top: 0; opacity: 0";
  // Beside a modal dialog everything is inert: nothing can be selected there.
  ([...document.querySelectorAll("dialog:modal")].at(-1) ?? document.body).append(box);
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  before?.focus?.({ preventScroll: true });
  return done;
}
