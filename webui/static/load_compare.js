// Two or more runs over each other: their charts, and the differences to the first in per cent.
import { UNKNOWN } from "./format.js";
import { t } from "./i18n.js";
import { chartsView } from "./load_charts.js";
import { figure, isBetter, percent, whenText } from "./load_format.js";
import { linesOf } from "./load_series.js";
import { closeComparison, view } from "./load_state.js";
import { methodView } from "./load_words.js";
import { html, nothing } from "./vendor/lit-html.js";

const METRICS = [
  "output_throughput", "request_throughput", "request_goodput", "mean_ttft_ms", "p50_ttft_ms", "p99_ttft_ms",
  "p50_tpot_ms", "p99_tpot_ms", "p50_itl_ms", "p99_itl_ms", "p50_e2el_ms", "p99_e2el_ms", "failed",
];
const FEW = ["output_throughput", "request_throughput", "p50_ttft_ms", "p99_ttft_ms", "p50_tpot_ms", "p99_e2el_ms"];
const shown = { all: false };
const THROUGHPUTS = { output_throughput: "tok/s", request_throughput: "req/s", request_goodput: "req/s" };

// "TTFT p99, ms"
function metricName(metric) {
  if (metric === "failed") return t("load_failures");
  if (metric in THROUGHPUTS) return html`${t(`load_figure_${metric}`)} <small>${THROUGHPUTS[metric]}</small>`;
  const [which, latency] = metric.split("_");
  return html`${latency.toUpperCase()} ${t(`load_stat_${which}`)} <small>ms</small>`;
}

function cell(metrics, metric, difference) {
  const value = metrics?.[metric];
  if (value == null) return html`<td></td>`;
  const kind = difference == null || Math.abs(difference) < 1 ? "" : isBetter(metric, difference) ? "better" : "worse";
  return html`<td>${metric === "failed" ? value : figure(value)}${difference == null ? nothing : html` <span class="difference-percent ${kind}">${percent(difference)}</span>`}</td>`;
}

// The app has computed the differences: to the first column that has this level.
function level({ label, values, differences_percent: differences }, metrics) {
  const found = values.map((value) => value.metrics);
  if (!found.some(Boolean)) return nothing;
  const first = found.findIndex(Boolean);
  const difference = (metric, i) => (i > first ? differences[metric]?.[i] : null);
  return html`<tbody>
    <tr class="load-level"><th colspan=${found.length + 1}>${nameOf(label)}</th></tr>
    ${metrics
      .filter((metric) => found.some((one) => one?.[metric] != null))
      .map((metric) => html`<tr><th scope="row">${metricName(metric)}</th>
        ${found.map((one, i) => cell(one, metric, difference(metric, i)))}</tr>`)}
  </tbody>`;
}

function nameOf(label) {
  if (label === "inf") return t("load_at_once");
  return /\/s$/.test(label) ? t("load_at_rate", { n: label.slice(0, -2) }) : t("load_at_concurrency", { n: label });
}

const head = (line) => html`<th><i style="background:${line.colour}"></i>${line.label}<br><small>${whenText(line.run.created_at)}</small></th>`;

function table(lines) {
  const metrics = shown.all ? METRICS : FEW;
  return html`<div class="load-scroll" tabindex="0" role="group" aria-label=${t("load_differences")}><table class="load-table compared">
    <thead><tr><th></th>${lines.map(head)}</tr></thead>
    ${view.compared.levels.map((each) => level(each, metrics))}
  </table></div>`;
}

// What of the settings or the machine is not the same: then the figures cannot simply be compared.
function unlike({ settings_differ: differing }) {
  const shownValue = (value) => (value == null || value === "" ? UNKNOWN : typeof value === "object" ? JSON.stringify(value) : String(value));
  const lines = Object.entries(differing).map(([key, values]) => `${key}: ${values.map(shownValue).join(" / ")}`);
  return lines.length ? html`<div class="banner warn" role="status"><b>${t("load_unlike")}</b> ${lines.join("; ")}</div>` : nothing;
}

export function compareView(redraw) {
  const { runs } = view.compared;
  const lines = linesOf(runs);
  const toggle = () => {
    shown.all = !shown.all;
    redraw();
  };
  return html`<article id="load-comparison">
    <div class="load-head"><div><h2>${t("load_compared", { n: runs.length })}</h2></div>
      <span class="buttons"><button class="btn" @click=${closeComparison}>${t("close")}</button></span></div>
    ${unlike(view.compared)}
    ${chartsView(runs, methodView(runs[0]))}
    <section class="deck-card deck-pad"><div class="load-chart-head"><h3>${t("load_differences")}</h3>
      <span><button class="btn small" @click=${toggle}>${shown.all ? t("load_fewer") : t("load_all_figures")}</button></span></div>
      <p class="cap">${t("load_differences_info", { name: lines[0].label })}</p>${table(lines)}</section>
  </article>`;
}
