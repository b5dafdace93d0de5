// The runs that are kept: which models, when, how it went; to open, rename, repeat, delete and compare.
import { confirmed } from "./dialog.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";
import { figure, isActive, ms, stateChip, whenText } from "./load_format.js";
import { MOST_COMPARED, compare, loadList, guarded, redraw, remove, rename, repeat, showRun, view } from "./load_state.js";
import { html, nothing } from "./vendor/lit-html.js";

const narrow = matchMedia("(max-width: 900px)"); // as in load_test.css
let renaming = null; // the run whose name is being typed

// How far a run is, or its best figures: "2 of 3 levels", "1,234 tok/s · TTFT p99 18.4 ms".
function headline(run) {
  if (isActive(run.state)) return run.state === "queued" || !run.levels_total ? "" : t("load_levels_done", { n: run.levels_done, all: run.levels_total });
  const { best_output_throughput: throughput, best_p99_ttft_ms: ttft } = run;
  return [throughput != null && `${figure(throughput)} tok/s`, ttft != null && `TTFT p99 ${ms(ttft)}`].filter(Boolean).join(" · ");
}

function nameField(run) {
  const done = (name) => {
    if (renaming !== run.id) return;
    renaming = null;
    redraw();
    if (name && name !== run.name) rename(run.id, name);
  };
  const onKey = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") done(event.target.value.trim());
    if (event.key === "Escape") {
      event.stopPropagation();
      done("");
    }
  };
  return html`<input class="title-field" maxlength="200" aria-label=${t("name")} .value=${run.name} @keydown=${onKey} @blur=${({ target }) => done(target.value.trim())} />`;
}

function beginRenaming(id) {
  renaming = id;
  redraw();
  document.querySelector("#load-runs .title-field")?.select();
}

async function askToRemove(run) {
  if (await confirmed(t("load_delete", { name: run.name }), t("delete_for_good"), t("delete_info"))) await remove(run.id);
}

function tick(id, checked) {
  if (checked) view.ticked.add(id);
  else view.ticked.delete(id);
  redraw();
}

function open(id) {
  showRun(id);
  // Where it stands below the list.
  if (narrow.matches) document.querySelector(".load-main")?.scrollIntoView({ block: "start", behavior: "smooth" });
}

function row(run) {
  const tool = (name, label, act, kind = "") =>
    html`<button class="icon ${kind}" title=${label} aria-label="${label}: ${run.name}" @click=${act}>${icon(name)}</button>`;
  const full = view.ticked.size >= MOST_COMPARED && !view.ticked.has(run.id);
  const models = run.models.join(", ");
  const isShown = run.id === view.shown && !view.compared;
  return html`<li class=${isShown ? "shown" : ""} data-run=${run.id}>
    <input type="checkbox" aria-label=${t("load_tick", { name: run.name })} title=${t("load_tick_info")} .checked=${view.ticked.has(run.id)}
      ?disabled=${isActive(run.state) || full} @change=${({ target }) => tick(run.id, target.checked)} />
    ${renaming === run.id
      ? nameField(run)
      : html`<button class="open" aria-current=${isShown ? "true" : nothing} title=${run.name} @click=${() => open(run.id)}>
          <span class="name">${run.name}</span>
          <span class="cap">${[run.name.includes(models) ? "" : models, whenText(run.created_at)].filter(Boolean).join(" · ")}</span>
          <span class="cap figures">${headline(run)}</span>
        </button>`}
    ${run.state === "done" ? nothing : stateChip(run.state)}
    <span class="tools">${tool("edit", t("rename"), () => beginRenaming(run.id))}${tool("again", t("load_repeat"), () => repeat(run.id))}
      ${isActive(run.state) ? nothing : tool("bin", t("delete_for_good"), () => guarded(() => askToRemove(run)), "danger")}</span>
  </li>`;
}

export function runsView() {
  const n = view.ticked.size;
  return html`<section class="deck-card deck-pad" id="load-runs">
    <div class="deck-card-head"><span>${t("load_runs")}</span>
      ${n ? html`<button type="button" class="btn small" id="load-compare" ?disabled=${n < 2} @click=${compare}>${n < 2 ? t("load_compare_more") : t("load_compare", { n })}</button>` : nothing}</div>
    ${view.listError ? html`<div class="banner bad" role="alert">${view.listError} <button class="btn small" @click=${() => guarded(loadList)}>${t("try_again")}</button></div>` : nothing}
    ${view.runs == null
      ? view.listError ? nothing : html`<p class="empty">${t("loading")}</p>`
      : view.runs.length ? html`<ul>${view.runs.map(row)}</ul>` : html`<p class="empty">${t("load_no_runs")}</p>`}
  </section>`;
}
