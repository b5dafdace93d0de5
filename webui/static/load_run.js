// The page of one run: how far it is, its figures, charts, tables and commands.
import { loadTestPath } from "./api.js";
import { copyByWords } from "./copy.js";
import { failureCard } from "./failure.js";
import { duration, integer, phaseText } from "./format.js";
import { t } from "./i18n.js";
import { chartsView } from "./load_charts.js";
import { fillFrom } from "./load_form.js";
import { figure, isActive, levelName, levelText, ms, noteText, stateChip, whenText } from "./load_format.js";
import { measured } from "./load_series.js";
import { repeat, showRun, stop, view } from "./load_state.js";
import { ladderTable, levelNotes, levelsTable } from "./load_tables.js";
import { methodView } from "./load_words.js";
import { isDark } from "./plots.js";
import { showServer } from "./servers.js";
import { html, nothing } from "./vendor/lit-html.js";

const FORMATS = ["png", "csv", "json", "md"];
const KINDS = ["test", "sla", "ladder"];

// Head

const exports = ({ id }) =>
  FORMATS.map((format) => {
    const query = format === "png" && isDark() ? "png&dark=true" : format;
    return html`<a class="btn small" download href=${loadTestPath(id, `/export?format=${query}`)}>${t(`load_export_${format}`)}</a>`;
  });

function head(run) {
  const took = run.started_at && run.ended_at ? duration(run.ended_at - run.started_at) : "";
  const { dataset, input_len: input, output_len: output } = run.settings;
  const lengths = dataset === "random" ? t("load_lengths", { input: integer(input), output: integer(output) }) : t(`load_dataset_${dataset}`);
  const facts = [KINDS.includes(run.kind) && t(`load_kind_${run.kind}`), lengths, whenText(run.created_at), took];
  const any = run.rows.some((row) => measured(row).length);
  return html`<div class="load-head">
    <div><h2>${run.name}</h2>${stateChip(run.state)}</div>
    <p class="cap">${facts.filter(Boolean).join(" · ")}</p>
    <span class="buttons">
      ${isActive(run.state)
        ? html`<button class="btn" id="load-stop" ?disabled=${view.stopping === run.id} @click=${() => stop(run.id)}>${view.stopping === run.id ? t("state_stopping") : `■ ${run.state === "queued" ? t("cancel") : t("stop")}`}</button>`
        : html`<button class="btn" @click=${() => repeat(run.id)}>${t("load_repeat")}</button>
            <button class="btn" title=${t("load_change_info")} @click=${() => fillFrom(run)}>${t("load_change")}</button>`}
      ${any ? html`<span class="load-exports" role="group" aria-label=${t("load_export")}>${exports(run)}</span>` : nothing}
      <button class="btn load-close" @click=${() => showRun(null)}>${t("close")}</button>
    </span>
  </div>`;
}

// Progress

// What is done with a model: "waits for smol", "starting the server: loading weights 2/4", "measuring".
function doing({ progress }) {
  const { code, facts = {} } = progress ?? {};
  if (code === "load_waiting" && facts.behind?.length) return t("load_waiting_for", { names: facts.behind.join(t("list_comma")) });
  const words = { load_waiting: t("load_waiting"), load_waking: t("load_waking"), load_preparing: t("load_preparing"), load_measuring: "" };
  if (code === "load_starting") return [t("load_starting"), facts.phase && phaseText(facts)].filter(Boolean).join(": ");
  return words[code] ?? "";
}

function levelProgress({ progress }) {
  if (!progress) return "";
  if (progress.phase === "starting") return t("load_phase_starting");
  return t(progress.phase === "running" ? "load_phase_running" : "load_phase_warmup", { n: integer(progress.done), all: integer(progress.total) });
}

const filled = ({ state, progress }) =>
  state === "running" && progress?.phase === "running" && progress.total ? (100 * progress.done) / progress.total : 0;

function strip(row) {
  return html`<div class="load-strip" aria-hidden="true">${row.levels.map((level) => html`<i class=${level.state} title=${levelName(level)}
    style="--filled:${filled(level).toFixed(1)}%"><span>${levelText(level)}</span></i>`)}</div>`;
}

function rowProgress(row, run) {
  const level = row.levels.find(({ state }) => state === "running");
  const text = [doing(row), level && levelName(level), level && levelProgress(level)].filter(Boolean).join(" · ");
  return html`<div class="load-row" data-model=${row.model}>
    ${run.rows.length > 1 ? html`<div class="load-row-head"><b>${row.model}</b>${row.state === "running" ? nothing : stateChip(row.state)}</div>` : nothing}
    ${strip(row)}
    ${row.state === "running" ? html`<div class="cap" role="status">${text}</div>` : nothing}
  </div>`;
}

function progress(run) {
  if (run.state === "queued")
    return html`<section class="deck-card deck-pad" role="status">${run.position ? t("load_waits", { n: run.position }) : t("load_waits_next")}</section>`;
  if (run.state !== "running") return nothing;
  return html`<section class="deck-card deck-pad load-progress">${run.rows.map((row) => rowProgress(row, run))}</section>`;
}

// What went wrong

const errorBanner = (error) => html`<div class="banner bad" role="alert">${noteText(error)}</div>`;

// Not said by the run or by one of the levels too.
const isNews = ({ error, levels }, run) => error && ![run, ...levels].some((other) => other.error?.message === error.message);

function failures(run) {
  const severalRows = run.rows.length > 1;
  return html`${run.error ? errorBanner(run.error) : nothing}
    ${run.state === "interrupted" ? html`<div class="banner warn" role="status">${t("load_interrupted")}</div>` : nothing}
    ${run.rows.map((row) => html`${severalRows ? nothing : failureOf(row, run)} ${levelNotes(row)}`)}`;
}

// Why a model could not be measured: of a ladder in its row of the table.
function failureOf(row, run) {
  if (row.diagnosis)
    return html`<section class=${run.rows.length > 1 ? "" : "deck-card deck-pad"} data-failed=${row.model}>
      ${failureCard({ what: t("load_server_failed", { name: row.model }), diagnosis: row.diagnosis })}
      <button class="link cap" @click=${() => showServer(row.model)}>${t("open_servers")}</button></section>`;
  return isNews(row, run) ? errorBanner(row.error) : nothing;
}

// Headline figures

const fact = (label, value) => html`<span class="fact"><b>${value}</b><span class="cap">${label}</span></span>`;

function headline(run) {
  const levels = measured(run.rows[0]);
  if (!levels.length) return nothing;
  const best = levels.reduce((a, b) => (b.metrics.output_throughput > a.metrics.output_throughput ? b : a));
  const first = levels[0];
  const last = levels.at(-1);
  const done = levels.reduce((sum, { metrics }) => sum + metrics.completed, 0);
  const failed = run.rows[0].levels.reduce((sum, { metrics }) => sum + (metrics?.failed ?? 0), 0);
  const where = (level) => levelName(level);
  return html`<section class="deck-card deck-pad"><div class="facts load-facts">
    ${fact(t("load_best_throughput", { where: where(best) }), `${figure(best.metrics.output_throughput)} tok/s`)}
    ${fact(t("load_first_ttft", { where: where(first) }), ms(first.metrics.p50_ttft_ms))}
    ${last === first ? nothing : fact(t("load_last_ttft", { where: where(last) }), ms(last.metrics.p99_ttft_ms))}
    ${first.metrics.p50_tpot_ms == null ? nothing : fact(t("load_first_tpot", { where: where(first) }), ms(first.metrics.p50_tpot_ms))}
    ${fact(failed ? t("load_requests_failed", { n: integer(failed) }) : t("load_requests_done"), integer(done))}
  </div></section>`;
}

function slaWords({ sla, state }) {
  if (isActive(state)) return t("load_sla_searching");
  const values = { ms: ms(sla.ttft_p99_ms), n: sla.highest, high: sla.too_high };
  if (sla.highest == null) return sla.tried.length ? t("load_sla_none", values) : "";
  return sla.too_high == null ? t("load_sla_at_least", values) : t("load_sla_found", values);
}

function slaView(run) {
  if (!run.sla) return nothing;
  const tried = [...run.sla.tried].sort((a, b) => a.concurrency - b.concurrency);
  return html`<section class="deck-card deck-pad load-sla">
    <p role="status">${slaWords(run)}</p>
    <div class="load-tried">${tried.map((one) => html`<span class=${one.ok ? "ok" : "over"}><b>${one.concurrency}</b> ${ms(one.p99_ttft_ms)} ${one.ok ? "✓" : "✗"}</span>`)}</div>
  </section>`;
}

// Commands

function commands(run) {
  const rows = run.rows.filter(({ levels }) => levels.some(({ command }) => command));
  if (!rows.length) return nothing;
  const name = (row, level) => (run.rows.length > 1 ? `${row.model} · ${levelName(level)}` : levelName(level));
  return html`<section class="deck-card deck-pad load-commands">
    <h3>${t("load_commands")}</h3><p class="cap">${t("load_commands_info")}</p>
    ${rows.flatMap((row) => row.levels.filter(({ command }) => command).map((level) => html`<details>
      <summary><span>${name(row, level)}</span><button class="btn small" @click=${(event) => {
        event.preventDefault();
        copyByWords(event.target, level.command);
      }}>${t("copy")}</button></summary><pre class="log">${level.command}</pre></details>`))}
  </section>`;
}

function tables(run) {
  const several = run.rows.length > 1;
  const shown = run.rows.filter(({ levels }) => levels.some(({ metrics }) => metrics));
  if (!shown.length) return nothing;
  return html`<section class="deck-card deck-pad"><h3>${t("load_levels_head")}</h3>
    ${shown.map((row) => html`${several ? html`<h4>${row.model}</h4>` : nothing}${levelsTable(row)}`)}</section>`;
}

export function runView() {
  const { run } = view;
  if (view.runError) return html`<div class="banner bad" role="alert">${view.runError}</div>`;
  if (!run) return html`<p class="empty">${t("loading")}</p>`;
  const isLadder = run.rows.length > 1;
  return html`<article id="load-run" data-state=${run.state}>
    ${head(run)} ${progress(run)} ${failures(run)} ${slaView(run)}
    ${isLadder && run.state === "queued" ? nothing : isLadder ? html`<section class="deck-card deck-pad"><h3>${t("load_ladder")}</h3>${ladderTable(run, (row) => failureOf(row, run))}</section>` : headline(run)}
    ${chartsView([run], methodView(run))}
    ${tables(run)} ${commands(run)}
  </article>`;
}
