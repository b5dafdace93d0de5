// The figures of a load test as tables: each level with its latencies, and the models of a ladder beside each other.
import { integer, memory } from "./format.js";
import { t } from "./i18n.js";
import { LATENCIES, STATISTICS, figure, levelName, levelText, ms, noteText, stateChip } from "./load_format.js";
import { inOrder } from "./load_series.js";
import { html, nothing } from "./vendor/lit-html.js";

const plain = (value) => (value == null ? "" : figure(value)); // the unit stands in the head

function failures({ completed, failed }) {
  return failed ? html`<b class="bad">${integer(failed)}</b> / ${integer(completed + failed)}` : html`0 / ${integer(completed)}`;
}

function levelRow(level, hasGoodput) {
  const { metrics } = level;
  const wide = 4 + LATENCIES.length * STATISTICS.length + (hasGoodput ? 1 : 0);
  if (!metrics) return html`<tr data-level=${level.label}><th scope="row" title=${levelName(level)}>${levelText(level)}</th><td colspan=${wide}>${stateChip(level.state)}</td></tr>`;
  return html`<tr data-level=${level.label}>
    <th scope="row" title=${levelName(level)}>${levelText(level)}</th>
    <td>${plain(metrics.request_throughput)}</td><td><b>${plain(metrics.output_throughput)}</b></td><td>${plain(metrics.total_token_throughput)}</td>
    ${hasGoodput ? html`<td>${plain(metrics.request_goodput)}</td>` : nothing}
    <td>${failures(metrics)}</td>
    ${LATENCIES.map((latency) => STATISTICS.map((which, i) => html`<td class=${i ? "" : "first"}>${plain(metrics[`${which}_${latency}_ms`])}</td>`))}
  </tr>`;
}

export function levelsTable(row) {
  if (!row.levels.length) return nothing;
  const hasGoodput = row.levels.some(({ metrics }) => metrics?.request_goodput != null);
  const first = row.levels.some(({ concurrency }) => concurrency != null) ? t("load_axis_concurrency") : t("load_axis_rate");
  return html`<div class="load-scroll" tabindex="0" role="group" aria-label=${t("load_levels_table", { name: row.model })}><table class="load-table" data-model=${row.model}>
    <thead>
      <tr><th rowspan="2">${first}</th><th rowspan="2">req/s</th><th rowspan="2" title=${t("load_means_throughput")}>tok/s</th><th rowspan="2" title=${t("load_total_info")}>${t("load_total")}<br>tok/s</th>
        ${hasGoodput ? html`<th rowspan="2" title=${t("load_goodput_info")}>${t("load_goodput")}<br>req/s</th>` : nothing}<th rowspan="2">${t("load_failures")}</th>
        ${LATENCIES.map((latency) => html`<th colspan=${STATISTICS.length} class="first group" title=${t(`load_means_${latency}`)}>${latency.toUpperCase()} <small>ms</small></th>`)}</tr>
      <tr>${LATENCIES.map(() => STATISTICS.map((which, i) => html`<th class=${i ? "" : "first"}>${t(`load_stat_${which}`)}</th>`))}</tr>
    </thead>
    <tbody>${inOrder(row.levels).map((level) => levelRow(level, hasGoodput))}</tbody>
  </table></div>`;
}

// What went wrong at a level, or is to be known of it.
export function levelNotes(row) {
  const notes = row.levels.flatMap((level) => [
    ...(level.error && level.error.code !== "not_run" ? [{ level, bad: true, text: noteText(level.error) }] : []),
    ...(level.warnings ?? []).map((note) => ({ level, bad: false, text: noteText(note) })),
  ]);
  return notes.map(({ level, bad, text }) => html`<div class="banner ${bad ? "bad" : "warn"}" role=${bad ? "alert" : "status"}><b>${levelName(level)}</b> · ${text}</div>`);
}

const tookText = ({ was, load_s: seconds }) =>
  was === "ready" ? t("load_was_ready") : was == null ? "" : t(`load_was_${was}`, { s: figure(seconds) });

// One line for each model of a ladder: what it took, and TTFT and throughput at each level; below it, why it failed.
export function ladderTable(run, failureOf) {
  const labels = [...new Map(run.rows.flatMap(({ levels }) => levels.map((level) => [level.label, level]))).values()];
  const held = run.rows.some(({ gpu_bytes: bytes }) => bytes != null) ? "gpu_bytes" : "rss_bytes";
  const failure = (row) => {
    const found = failureOf(row);
    return found === nothing ? nothing : html`<tr class="load-failed"><td colspan=${4 + 2 * labels.length}><div>${found}</div></td></tr>`;
  };
  const cells = (row, label) => {
    const metrics = row.levels.find((level) => level.label === label)?.metrics;
    return html`<td class="first">${metrics ? ms(metrics.p50_ttft_ms) : ""}</td><td><b>${metrics ? figure(metrics.output_throughput) : ""}</b></td>`;
  };
  return html`<div class="load-scroll" tabindex="0" role="group" aria-label=${t("load_ladder")}><table class="load-table ladder">
    <thead>
      <tr><th rowspan="2">${t("model")}</th><th rowspan="2">${t("load_loaded")}</th><th rowspan="2">${held === "gpu_bytes" ? t("load_sample_gpu_memory_bytes") : "RAM"}</th>
        <th rowspan="2">${t("kv_cache")}<br>token</th>
        ${labels.map((level) => html`<th colspan="2" class="first group">${levelName(level)}</th>`)}</tr>
      <tr>${labels.map(() => html`<th class="first">TTFT p50</th><th>tok/s</th>`)}</tr>
    </thead>
    <tbody>${run.rows.map((row) => html`<tr data-model=${row.model}>
      <th scope="row">${row.model} ${row.state === "done" ? nothing : stateChip(row.state)}</th>
      <td>${tookText(row)}</td><td>${row[held] == null ? "" : memory(row[held])}</td><td>${row.kv_cache_tokens == null ? "" : integer(row.kv_cache_tokens)}</td>
      ${labels.map(({ label }) => cells(row, label))}
    </tr>${failure(row)}`)}</tbody>
  </table></div>`;
}
