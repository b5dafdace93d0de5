// Why a server failed: the cause in plain words, the line of its log that proves it, what to do, and a button for each
// correction that the app could compute.
import { duration } from "./format.js";
import { locale, t } from "./i18n.js";
import { html, nothing } from "./vendor/lit-html.js";

// The app's own words are English; where it has them in the reader's language they come along.
const title = (found) => found.translations?.[locale]?.title ?? found.title;
const remedy = (found) => found.translations?.[locale]?.remedy ?? found.remedy;
const label = (fix) => (fix.words ? t(`fix_${fix.words}`, fix.facts) : fix.label);

// One paragraph, for the chat: an error with the diagnosis that the app gave it, or its plain message.
export const inWords = (error) =>
  error.diagnosis ? [title(error.diagnosis), remedy(error.diagnosis)].filter(Boolean).join(" ") : error.message;

// A server's exit as a part of its card. `tryFix(id, value)` and `showLog()` are what its buttons do; without them there
// are none. `what` says how it ended, where that is not the exit's own cause.
export function failureCard(end, { tryFix, showLog } = {}) {
  const found = end.diagnosis;
  const what = end.what ?? t(`cause_${end.cause}`, { d: duration(end.seconds) });
  if (!found)
    return html`<div class="failure" role="alert">
      <b>${what}</b>
      <pre>${end.message}</pre>
      ${end.next_step ? html`<p>${end.next_step}</p>` : nothing}
    </div>`;
  return html`<div class="failure" role="alert" data-cause=${found.cause}>
    <div class="cap">${what}</div>
    <b class="why">${title(found)}</b>
    ${proof(found, showLog)}
    ${remedy(found) ? html`<p>${remedy(found)}</p>` : nothing}
    ${tryFix && found.fixes?.length ? html`<div class="fixes">${found.fixes.map((fix, i) => oneFix(fix, i === 0, tryFix))}</div>` : nothing}
  </div>`;
}

function proof(found, showLog) {
  const link = showLog ? html`<button class="link" @click=${showLog}>${t("show_log")}</button>` : nothing;
  const place = found.line ? t("line_of_log", { n: found.line }) : "";
  if (!found.evidence) return showLog ? html`<div class="proof-place cap">${link}</div>` : nothing;
  return html`<pre class="proof">${found.evidence}</pre>
    <div class="proof-place cap"><span>${place}</span>${link}</div>`;
}

function oneFix(fix, first, tryFix) {
  const send = (event) => {
    event.preventDefault();
    tryFix(fix.id, event.target.elements.value?.value ?? null);
  };
  return html`<form class="fix" @submit=${send}>
    ${fix.asks
      ? html`<input name="value" type="password" required autocomplete="off" placeholder=${fix.asks} aria-label=${fix.asks} />`
      : nothing}
    <button class="btn ${first ? "primary" : ""}">${label(fix)}</button>
    <code class="difference"
      >${fix.removed.map((piece) => html`<del>${piece}</del>`)}${fix.added.map((piece) => html`<ins>${piece}</ins>`)}</code
    >
  </form>`;
}
