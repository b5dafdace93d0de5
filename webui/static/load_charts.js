// The charts of one run, or of several over each other, with what can be chosen for them.
import { t } from "./i18n.js";
import { LATENCIES, STATISTICS, isActive, levelName } from "./load_format.js";
import { THROUGHPUTS, distributionPlot, histogramsOf, latencyPlot, linesOf, measured, throughputPlot, timelinePlots } from "./load_series.js";
import { redraw } from "./load_state.js";
import { drawPlot, plotLegend } from "./plots.js";
import { segments } from "./segments.js";
import { html, nothing } from "./vendor/lit-html.js";

const HEIGHT = 260;
const LOW = 150; // of a timeline
const chosen = { latency: "ttft", statistic: "p50", throughput: "output_throughput", cumulative: true, part: "" };
let toDraw = []; // [element id, plot] of what stands on the page now

const set = (changes) => {
  Object.assign(chosen, changes);
  redraw();
};

function select(key, label, values) {
  return html`<select class="load-select" aria-label=${label} @change=${({ target }) => set({ [key]: target.value })}>
    ${values.map(([value, text]) => html`<option value=${value} .selected=${chosen[key] === value}>${text}</option>`)}
  </select>`;
}

function chart(id, title, controls, plot, label) {
  toDraw.push([id, plot]);
  return html`<section class="deck-card deck-pad load-chart">
    <div class="load-chart-head"><h3>${title}</h3><span>${controls}</span></div>
    <div class="plot" id=${id} role="img" aria-label=${label ?? title} style="min-height:${plot.height}px"></div>
    ${plotLegend(plot.series)}
  </section>`;
}

const limitOf = (runs, latency) => {
  const { sla, goodput } = runs[0].settings;
  return (latency === "ttft" && sla?.ttft_p99_ms) || goodput?.[latency] || null;
};

function againstLevels(lines, runs) {
  const several = lines.length > 1;
  const latencies = select("latency", t("load_latency"), LATENCIES.map((latency) => [latency, latency.toUpperCase()]));
  const statistics = several ? select("statistic", t("load_statistic"), STATISTICS.map((which) => [which, t(`load_stat_${which}`)])) : nothing;
  const throughputs = select("throughput", t("load_throughput"), offered(lines).map((key) => [key, t(`load_figure_${key}`)]));
  const latency = latencyPlot(lines, { ...chosen, limit: limitOf(runs, chosen.latency) }, HEIGHT);
  const against = latency.x.label;
  return [
    chart("load-plot-latency", t("load_chart_latency"), [latencies, statistics], latency, `${chosen.latency.toUpperCase()} / ${against}`),
    chart("load-plot-throughput", t("load_throughput"), throughputs, throughputPlot(lines, chosen, HEIGHT), `${t("load_throughput")} / ${against}`),
  ];
}

function offered(lines) {
  const found = lines.flatMap(({ row }) => measured(row));
  const keys = Object.keys(THROUGHPUTS).filter((key) => found.some(({ metrics }) => metrics[key] != null));
  if (!keys.includes(chosen.throughput)) chosen.throughput = keys[0] ?? "output_throughput";
  return keys;
}

// Which levels the lower charts are of: "line:0" (all levels of one line), "level:8" (all lines at one level).
function parts(lines, has) {
  const found = [];
  if (lines.length > 1) {
    const labels = new Map(lines.flatMap(({ row }) => row.levels.filter(has).map((level) => [level.label, level])));
    for (const [label, level] of labels) found.push({ key: `level:${label}`, text: levelName(level), of: { label } });
  }
  lines.forEach(({ label, row }, line) => row.levels.some(has) && found.push({ key: `line:${line}`, text: label, of: { line } }));
  return found;
}

const partOf = (found) => found.find(({ key }) => key === chosen.part) ?? found[0];

function partSelect(found) {
  if (found.length < 2) return nothing;
  const now = partOf(found).key;
  return html`<select class="load-select" aria-label=${t("load_part")} @change=${({ target }) => set({ part: target.value })}>
    ${found.map(({ key, text }) => html`<option value=${key} .selected=${key === now}>${text}</option>`)}
  </select>`;
}

function distribution(lines) {
  const found = parts(lines, (level) => level.ttft_histogram);
  if (!found.length) return nothing;
  const kinds = segments(t("load_distribution"), [[true, t("load_cumulative")], [false, t("load_histogram")]], chosen.cumulative, (cumulative) => set({ cumulative }));
  const plot = distributionPlot(histogramsOf(lines, partOf(found).of), chosen.cumulative, HEIGHT);
  return chart("load-plot-distribution", t("load_distribution"), [partSelect(found), kinds], plot);
}

function timeline(lines) {
  const found = parts(lines, (level) => level.samples?.t.length);
  if (!found.length) return nothing;
  const tracks = timelinePlots(lines, partOf(found).of, LOW);
  return html`<section class="deck-card deck-pad load-chart load-timeline">
    <div class="load-chart-head"><h3>${t("load_timeline")}</h3><span>${partSelect(found)}</span></div>
    <div class="load-tracks">${tracks.map(({ name, plot }) => {
      toDraw.push([`load-track-${name}`, plot]);
      return html`<div><div class="plot" id="load-track-${name}" role="img" aria-label=${t(`load_track_${name}`)} style="min-height:${LOW}px"></div>${plotLegend(plot.series)}</div>`;
    })}</div>
  </section>`;
}

// All charts of some runs; `beside` stands with them.
export function chartsView(runs, beside = nothing) {
  toDraw = [];
  const lines = linesOf(runs);
  const any = lines.some(({ row }) => measured(row).length);
  const sampled = lines.some(({ row }) => row.levels.some(({ samples }) => samples?.t.length));
  if (!any && !sampled) return runs.every(({ state }) => isActive(state)) ? beside : nothing;
  return html`<div class="load-charts">
    ${any ? againstLevels(lines, runs) : nothing} ${any ? distribution(lines) : nothing} ${beside} ${timeline(lines)}
  </div>`;
}

export const noCharts = () => (toDraw = []);

// After lit has made the places.
export function drawCharts() {
  for (const [id, plot] of toDraw) drawPlot(id, plot);
}
