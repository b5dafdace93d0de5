// Dialogs and menus of the browser's own kind (<dialog>, popover): they hold the focus, and Escape closes them.
import { t } from "./i18n.js";
import { html, render } from "./vendor/lit-html.js";

const MARGIN = 8; // pixels between a menu and the edge of the window

// An Escape that closes something must not reach the chat, where it stops the answer.
export const keepEscape = (event) => event.key === "Escape" && event.stopPropagation();

// Shows `content(dialog)` until the dialog is closed; `draw()` of what is returned draws it again.
export function openDialog(label, content, { className = "" } = {}) {
  const dialog = Object.assign(document.createElement("dialog"), { className: `deck-dialog ${className}` });
  dialog.setAttribute("aria-label", label);
  dialog.addEventListener("keydown", keepEscape);
  dialog.addEventListener("pointerdown", (event) => event.target === dialog && dialog.close()); // beside it
  dialog.addEventListener("close", () => dialog.remove());
  document.querySelector(".gradio-container .contain").append(dialog); // our styles are Gradio's guests: they end there
  const draw = () => render(html`<div class="dialog-body">${content(dialog)}</div>`, dialog);
  draw();
  dialog.showModal();
  return { dialog, draw };
}

// Asks once more before something is gone for good.
export function confirmed(question, action, detail = "") {
  return new Promise((tell) => {
    const { dialog } = openDialog(question, (self) => html`<p class="question"><b>${question}</b></p>
      ${detail ? html`<p class="cap">${detail}</p>` : ""}
      <div class="dialog-buttons">
        <button class="btn" autofocus @click=${() => self.close()}>${t("keep_it")}</button>
        <button class="btn danger" @click=${() => self.close("yes")}>${action}</button>
      </div>`);
    dialog.addEventListener("close", () => tell(dialog.returnValue === "yes"));
  });
}

// Puts a popover below the button that opens it, within the window; it may grow to the left or downwards later.
export function placeMenu(event, button) {
  if (event.newState !== "open") return;
  const menu = event.currentTarget;
  const { right, bottom } = button.getBoundingClientRect();
  menu.style.right = `${Math.max(MARGIN, Math.min(innerWidth - right, innerWidth - menu.offsetWidth - MARGIN))}px`;
  menu.style.top = `${Math.max(MARGIN, Math.min(bottom + 4, innerHeight - menu.offsetHeight - MARGIN))}px`;
  menu.querySelector("[role^=menuitem]:not([disabled])")?.focus();
}

// The arrow keys go from entry to entry of a menu, a list or a row of tabs.
export function withArrows(event, selector) {
  const entries = [...event.currentTarget.querySelectorAll(selector)].filter((entry) => !entry.disabled);
  const at = entries.indexOf(document.activeElement);
  const steps = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: entries.length - 1 };
  if (!entries.length || !(event.key in steps) || event.target.matches("input, textarea, select")) return;
  event.preventDefault();
  entries[(steps[event.key] + entries.length) % entries.length].focus();
}
