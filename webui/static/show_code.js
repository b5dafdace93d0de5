// "Show as code": the present chat as lines for a shell, as Python, and the command that serves its model.
import { post } from "./api.js";
import { copyByWords } from "./copy.js";
import { openDialog, withArrows } from "./dialog.js";
import { t } from "./i18n.js";
import { questionNow } from "./chat.js";
import { state } from "./state.js";
import { say } from "./status_line.js";
import { html } from "./vendor/lit-html.js";

const LONG_DATA = /(base64,[A-Za-z0-9+/]{40})[A-Za-z0-9+/=]{80,}/g; // of an image: copied whole, shown shortened
const KINDS = ["curl", "python", "serve"];
const shortened = (code) => code.replace(LONG_DATA, "$1…");

function tabs(view, draw) {
  const pick = (kind) => {
    view.kind = kind;
    draw();
  };
  return html`<div role="tablist" class="code-tabs" aria-label=${t("show_as_code")} @keydown=${(event) => withArrows(event, "[role=tab]")}
    @focusin=${({ target }) => target.dataset.kind && target.dataset.kind !== view.kind && pick(target.dataset.kind)}>
    ${KINDS.map(
      (kind) => html`<button role="tab" id="code-tab-${kind}" data-kind=${kind} aria-selected=${kind === view.kind}
        tabindex=${kind === view.kind ? 0 : -1} aria-controls="code-panel" @click=${() => pick(kind)}>${t(`code_${kind}`)}</button>`,
    )}
  </div>`;
}

function notes({ kind, found }) {
  const lines = [];
  if (kind === "serve" && found.serve) lines.push(t("code_serve_info", { url: found.serve_url, name: found.serve_name }));
  if (kind !== "serve" && found.with_key) lines.push(t("code_key_info"));
  if (kind === "python") lines.push(t("code_python_info"));
  return lines.map((line) => html`<p class="cap">${line}</p>`);
}

function panel(view) {
  if (view.error) return html`<div class="banner bad" role="alert">${view.error}</div>`;
  if (!view.found) return html`<div class="empty">${t("loading")}</div>`;
  const code = view.found[view.kind];
  if (!code) return html`<div class="empty">${t("code_no_serve")}</div>`;
  return html`<div id="code-panel" role="tabpanel" aria-labelledby="code-tab-${view.kind}">
    <pre class="log" tabindex="0">${shortened(code)}</pre>
    <div class="code-foot"><div>${notes(view)}</div>
      <button class="btn primary" @click=${({ target }) => copyByWords(target, code)}>${t("copy")}</button></div>
  </div>`;
}

export async function showCode() {
  if (!state.model) return say(t("pick_first"), true);
  const body = await questionNow();
  if (!body.again && !body.text && !body.images.length) body.text = t("code_greeting");
  const view = { kind: "curl", found: null, error: "" };
  const { draw } = openDialog(
    t("show_as_code"),
    (dialog) => html`<div class="dialog-head"><b>${t("show_as_code")}</b>
        <button class="btn small" @click=${() => dialog.close()}>${t("close")}</button></div>
      ${tabs(view, () => draw())} ${panel(view)}`,
    { className: "wide-dialog" },
  );
  try {
    view.found = await post("/api/chat/code", body);
  } catch (error) {
    view.error = error.message;
  }
  return draw();
}
