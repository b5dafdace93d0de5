// A choice of a few, side by side; the arrow keys go from one to the next.
import { html } from "./vendor/lit-html.js";

export function moveChoice(event) {
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const all = [...event.currentTarget.children];
  const next = all[(all.indexOf(event.target) + step + all.length) % all.length];
  next.click();
  next.focus();
}

// `options`: [value, text]; `choose(value)` is told what was picked.
export function segments(label, options, now, choose, className = "") {
  return html`<span class="segments ${className}" role="radiogroup" aria-label=${label} @keydown=${moveChoice}
    >${options.map(
      ([value, text]) => html`<button type="button" role="radio" aria-checked=${now === value} tabindex=${now === value ? 0 : -1}
        @click=${() => choose(value)}>${text}</button>`,
    )}</span>`;
}
