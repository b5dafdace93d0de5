// Small line drawings for buttons; what a button does stands in its label.
import { html, svg } from "./vendor/lit-html.js";

const lines = {
  again: svg`<path d="M20 11a8 8 0 1 0-2.3 5.7M20 4v7h-7"/>`,
  bin: svg`<path d="M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5"/>`,
  branch: svg`<circle cx="6" cy="5" r="2"/><circle cx="6" cy="19" r="2"/><circle cx="18" cy="8" r="2"/><path d="M6 7v10M18 10c0 4-6 3-11 7"/>`,
  check: svg`<path d="M5 13l4 4L19 7"/>`,
  copy: svg`<rect x="9" y="9" width="11" height="11" rx="2"/><path d="M5 15V6a2 2 0 0 1 2-2h8"/>`,
  down: svg`<path d="M12 5v14M6 13l6 6 6-6"/>`,
  edit: svg`<path d="M4 20h4L19 9l-4-4L4 16z"/>`,
  image: svg`<rect x="3" y="4" width="18" height="16" rx="2"/><circle cx="9" cy="10" r="1.6"/><path d="M4 18l6-5 4 3 3-3 4 4"/>`,
  left: svg`<path d="M14 6l-6 6 6 6"/>`,
  list: svg`<path d="M4 6h16M4 12h16M4 18h10"/>`,
  more: svg`<path d="M5 12h.01M12 12h.01M19 12h.01" stroke-width="3.5"/>`,
  plus: svg`<path d="M12 5v14M5 12h14"/>`,
  remove: svg`<path d="M6 6l12 12M18 6L6 18"/>`,
  right: svg`<path d="M10 6l6 6-6 6"/>`,
  search: svg`<circle cx="11" cy="11" r="6.5"/><path d="M16 16l5 5"/>`,
};

export const icon = (name) =>
  html`<svg viewBox="0 0 24 24" width="16" height="16" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">${lines[name]}</svg>`;
