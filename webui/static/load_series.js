// From load tests to charts: which lines there are, and their points. A line is a model's row of a run.
import { memory } from "./format.js";
import { t } from "./i18n.js";
import { STATISTICS, countTick, figure, levelText, ms, msTick } from "./load_format.js";
import { colour, limitColour, rampColour } from "./plots.js";

const GiB = 2 ** 30;
const WIDE = 12; // the highest value over the lowest from which a scale of powers is easier to read

export const THROUGHPUTS = { output_throughput: "tok", total_token_throughput: "tok", request_throughput: "req", request_goodput: "req" };

// Every row of some runs, each with a name that tells it from the others.
export function linesOf(runs) {
  const lines = runs.flatMap((run) => run.rows.map((row) => ({ run, row })));
  const models = new Set(lines.map(({ row }) => row.model));
  return lines.map(({ run, row }, i) => {
    const label = runs.length === 1 ? row.model : models.size > 1 && run.rows.length > 1 ? `${run.name} · ${row.model}` : run.name;
    return { run, row, label, colour: colour(i) };
  });
}

// In the order of their load; a search measures them in another one.
export const inOrder = (levels) => [...levels].sort((a, b) => (a.concurrency ?? a.request_rate ?? Infinity) - (b.concurrency ?? b.request_rate ?? Infinity));
export const measured = (row) => inOrder(row.levels.filter(({ metrics }) => metrics?.completed));
const byRate = (level) => level.concurrency == null;

// The levels' places on the x axis. All requests at once: one doubling to the right of the highest rate.
function places(lines) {
  const levels = lines.flatMap(({ row }) => measured(row));
  const rated = levels.length > 0 && byRate(levels[0]);
  const kept = levels.filter((level) => byRate(level) === rated);
  const rates = kept.map(({ request_rate: rate }) => rate).filter((rate) => rate != null);
  const atOnce = rated && rates.length < kept.length ? 2 * Math.max(0.5, ...rates) : null;
  const placeOf = (level) => (byRate(level) !== rated ? null : rated ? (level.request_rate ?? atOnce) : level.concurrency);
  const ticks = [...new Set(kept.map(placeOf))].sort((a, b) => a - b);
  return { rated, ticks, placeOf, text: (x) => (x === atOnce ? "∞" : figureless(x)) };
}

const figureless = (x) => String(Number(x.toPrecision(4)));

// The points of a line at the ticks; `valueOf` takes a level's metrics.
function at(ticks, placeOf, row, valueOf) {
  const found = new Map(measured(row).map((level) => [placeOf(level), valueOf(level.metrics)]));
  return ticks.map((tick) => found.get(tick) ?? null);
}

function againstLevels(lines, series, { height, axis }) {
  const { rated, ticks, text } = places(lines);
  const log = ticks.length > 1 && ticks.at(-1) / ticks[0] > 4 ? 2 : undefined;
  const label = t(rated ? "load_axis_rate" : "load_axis_concurrency");
  return { height, x: { values: ticks, ticks, text, told: (x) => `${label}: ${text(x)}`, log, label }, axes: { y: axis }, series };
}

function isWide(series) {
  const values = series.flatMap((s) => s.values).filter((value) => value > 0);
  return values.length > 1 && Math.max(...values) / Math.min(...values) > WIDE;
}

const STATISTIC_LOOKS = { mean: { place: 2, dashed: true }, p50: { place: 0 }, p90: { place: 4 }, p99: { place: 1 } };

// A latency (ttft, tpot, …) against the levels: of one line all its statistics, of several the one that is chosen.
export function latencyPlot(lines, { latency, statistic, limit }, height) {
  const { ticks, placeOf } = places(lines);
  const points = (row, which) => at(ticks, placeOf, row, (metrics) => metrics[`${which}_${latency}_ms`]);
  const series = lines.length === 1
    ? STATISTICS.map((which) => ({
        label: t(`load_stat_${which}`), values: points(lines[0].row, which), points: true,
        colour: colour(STATISTIC_LOOKS[which].place), dashed: STATISTIC_LOOKS[which].dashed,
      }))
    : lines.map((line) => ({ label: line.label, colour: line.colour, values: points(line.row, statistic), points: true }));
  const drawn = series.filter(hasValues);
  if (limit && drawn.length)
    drawn.push({ label: t("load_limit", { ms: ms(limit) }), colour: limitColour(), dashed: true, values: ticks.map(() => limit), width: 1.5, silent: true });
  return againstLevels(lines, drawn, { height, axis: { text: msTick, told: ms, log: isWide(drawn) ? 10 : undefined } });
}

export function throughputPlot(lines, { throughput }, height) {
  const { ticks, placeOf } = places(lines);
  const series = lines.map((line) => ({
    label: line.label, colour: line.colour, points: true,
    values: at(ticks, placeOf, line.row, (metrics) => metrics[throughput]),
  })).filter(hasValues);
  const unit = `${THROUGHPUTS[throughput]}/s`;
  const axis = { text: countTick, told: (value) => `${figure(value)} ${unit}`, log: isWide(series) && lines.length > 1 ? 10 : undefined, label: unit };
  return againstLevels(lines, series, { height, axis });
}

const hasValues = ({ values }) => values.some((value) => value != null);

// Distribution

// Levels with a histogram as { label, colour, histogram }: those of one line, or of all lines at one level.
export function histogramsOf(lines, { line, label }) {
  const has = (level) => level.ttft_histogram && (label == null || level.label === label);
  if (label == null) {
    const levels = inOrder(lines[line].row.levels.filter(has));
    return levels.map((level, i) => ({ label: levelText(level), colour: rampColour(i, levels.length), histogram: level.ttft_histogram }));
  }
  return lines.flatMap(({ row, label: name, colour: own }) => row.levels.filter(has).map((level) => ({ label: name, colour: own, histogram: level.ttft_histogram })));
}

// How TTFT is distributed: the share of the requests in each bin, or of those whose first token had come by then.
export function distributionPlot(found, cumulative, height) {
  const values = [...new Set(found.flatMap(({ histogram }) => histogram.edges_ms))].filter((edge) => edge > 0).sort((a, b) => a - b);
  const series = found.map(({ label, colour: own, histogram }) => ({
    label, colour: own, stepped: !cumulative, points: false,
    fill: !cumulative && found.length <= 3 ? `${own}2e` : undefined,
    values: cumulative ? shareBy(values, histogram) : shareIn(values, histogram),
  }));
  const log = values.length > 1 && values.at(-1) / values[0] > WIDE ? 10 : undefined;
  const share = (value) => `${figure(value)} %`;
  return {
    height,
    x: { values, log, text: msTick, told: (x) => `TTFT ${ms(x)}`, label: "TTFT" },
    axes: { y: { text: (value) => `${value} %`, told: share, range: cumulative ? [0, 102] : undefined, label: t("load_axis_requests") } },
    series,
  };
}

const total = ({ counts }) => counts.reduce((a, b) => a + b, 0) || 1;

function shareIn(values, histogram) {
  const { edges_ms: edges, counts } = histogram;
  let bin = 0;
  return values.map((value) => {
    if (value < edges[0] || value > edges.at(-1)) return null;
    while (bin < counts.length - 1 && value >= edges[bin + 1]) bin++;
    return value === edges.at(-1) ? 0 : (100 * counts[bin]) / total(histogram);
  });
}

// Straight between two edges: within a bin nothing more is known.
function shareBy(values, histogram) {
  const { edges_ms: edges, counts } = histogram;
  const sums = [0];
  for (const count of counts) sums.push(sums.at(-1) + count);
  const all = total(histogram);
  return values.map((value) => {
    const bin = edges.findLastIndex((edge) => edge <= value);
    if (bin < 0) return 0;
    if (bin >= counts.length) return 100;
    const part = (value - edges[bin]) / (edges[bin + 1] - edges[bin] || 1);
    return (100 * (sums[bin] + part * counts[bin])) / all;
  });
}

// Timeline

const TRACKS = [
  { name: "throughput", unit: "tok/s", text: countTick, of: ["output_tokens_per_s"] },
  { name: "requests", unit: "", text: countTick, of: ["num_requests_running", "num_requests_waiting"] },
  { name: "use", unit: "%", text: (value) => `${value} %`, told: (value) => `${figure(value)} %`, of: ["gpu_utilization", "kv_cache_usage"], range: [0, 102] },
  { name: "memory", unit: "GiB", text: countTick, told: (value) => memory(value * GiB), of: ["gpu_memory_bytes", "rss_bytes"] },
];
const SCALES = { gpu_memory_bytes: 1 / GiB, rss_bytes: 1 / GiB, kv_cache_usage: 100 };
const PAUSE_S = 2; // of the time axis between two levels

// One line's levels after each other, or several lines' at one level over each other.
// Gives { name, plot } for each track that was sampled at all.
export function timelinePlots(lines, { line, label }, height) {
  const parts = label == null ? oneAfterTheOther(lines[line]) : { lines: lines.map((each) => ({ ...each, samples: each.row.levels.find((level) => level.label === label)?.samples })), marks: [] };
  const shown = parts.lines.filter(({ samples }) => samples?.t.length);
  if (!shown.length) return [];
  const rounded = shown.length > 1 ? shown.map(inWholeSeconds) : shown;
  const times = [...new Set(rounded.flatMap(({ samples }) => samples.t))].sort((a, b) => a - b);
  return TRACKS.map((track) => ({ name: track.name, plot: trackPlot(track, rounded, times, parts.marks, height) })).filter(({ plot }) => plot.series.length);
}

// Sampled once a second each, but not at the same moments: so that all have a value under the pointer.
const inWholeSeconds = (line) => ({ ...line, samples: { ...line.samples, t: line.samples.t.map(Math.round) } });

function trackPlot(track, shown, times, marks, height) {
  const several = shown.length > 1;
  const onGpu = shown.some(({ samples }) => samples.gpu_memory_bytes?.some((bytes) => bytes != null));
  const keys = track.of.filter((key) => key !== "rss_bytes" || !onGpu);
  const series = shown.flatMap((line) =>
    keys.map((key, i) => {
      const own = t(`load_sample_${key}`);
      const scale = SCALES[key] ?? 1;
      const found = new Map(line.samples.t.map((time, n) => [time, line.samples[key]?.[n]]));
      return {
        label: several ? `${line.label} · ${own}` : own,
        colour: several ? line.colour : colour(i === 0 ? 0 : 1),
        dashed: several && i > 0,
        fill: !several && keys.length === 1 ? `${colour(0)}22` : undefined,
        width: 1.5,
        points: times.length < 3, // nothing to draw a line between
        values: times.map((time) => (found.get(time) == null ? null : found.get(time) * scale)),
      };
    }),
  ).filter(hasValues);
  const seconds = (x) => `${figureless(x)} s`;
  return {
    height, marks, series, sync: "load-timeline",
    x: { values: times, text: seconds, told: seconds },
    axes: { y: { text: track.text, told: track.told ?? ((value) => [figure(value), track.unit].filter(Boolean).join(" ")), range: track.range, label: track.unit || undefined } },
  };
}

function oneAfterTheOther(line) {
  const joined = { t: [] };
  const marks = [];
  const sampled = line.row.levels.filter(({ samples }) => samples?.t.length);
  const zero = sampled[0]?.began_at;
  for (const level of sampled) {
    const { samples } = level;
    const end = joined.t.at(-1);
    const begin = zero != null && level.began_at != null ? level.began_at - zero : end == null ? 0 : end + PAUSE_S;
    if (end != null) for (const key of Object.keys(joined)) joined[key].push(key === "t" ? (end + begin) / 2 : null); // a gap
    marks.push({ x: begin, text: levelText(level) });
    const before = joined.t.length;
    for (const key of Object.keys(samples)) {
      const earlier = (joined[key] ??= Array(before).fill(null));
      earlier.push(...(key === "t" ? samples.t.map((time) => begin + time) : samples[key]));
    }
  }
  return { lines: [{ ...line, samples: joined }], marks };
}
