// Small line drawings for buttons; what a button does stands in its label.
import { html, svg } from "./vendor/lit-html.js";

const lines = {
  list: svg`<path d="M4 6h16M4 12h16M4 18h10"/>`,
  plus: svg`<path d="M12 5v14M5 12h14"/>`,
  more: svg`<path d="M5 12h.01M12 12h.01M19 12h.01" stroke-width="3.5"/>`,
  bin: svg`<path d="M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5"/>`,
  search: svg`<circle cx="11" cy="11" r="6.5"/><path d="M16 16l5 5"/>`,
  edit: svg`<path d="M4 20h4L19 9l-4-4L4 16z"/>`,
  remove: svg`<path d="M6 6l12 12M18 6L6 18"/>`,
};

export const icon = (name) =>
  html`<svg viewBox="0 0 24 24" width="16" height="16" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">${lines[name]}</svg>`;
