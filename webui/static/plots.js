// Charts by uPlot in the page's look, light and dark: axes with units, points, and a box with the values under the pointer.
import { html } from "./vendor/lit-html.js";
import uPlot from "./vendor/uPlot.esm.js";

// Told apart by the colour-blind too (Okabe and Ito); brighter on the dark page.
const COLOURS = ["#4f46e5", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#64748b"];
const DARK_COLOURS = ["#8b93ff", "#f0b429", "#2fc79a", "#f07c3e", "#7cc7f0", "#e09cc0", "#a3b1c6"];
const DASH = [5, 4];
const FONT = '11px system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif';
const LETTER = 6.4; // pixels that a letter of an axis takes
const NEAREST_LABELS = 8; // pixels between two labels of the x axis
const TIP_GAP = 14; // pixels between the pointer and its box

const plots = new Map(); // element id -> { chart, look, content, spec }

export const isDark = () => document.body.classList.contains("dark");
export const colour = (place) => (isDark() ? DARK_COLOURS : COLOURS)[place % COLOURS.length];

// `n` colours in an order, for what has one (levels): from violet to amber.
const RAMP = ["#4338ca", "#9333b5", "#d0417e", "#e8794a", "#dba21f"];
const DARK_RAMP = ["#8b93ff", "#c084fc", "#f472b6", "#fb9a6a", "#fcd34d"];
export function rampColour(place, n) {
  const ramp = isDark() ? DARK_RAMP : RAMP;
  const at = n < 2 ? 0 : (place / (n - 1)) * (ramp.length - 1);
  const [low, high] = [ramp[Math.floor(at)], ramp[Math.ceil(at)]].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return `#${low.map((part, i) => Math.round(part + (high[i] - part) * (at % 1)).toString(16).padStart(2, "0")).join("")}`;
}

export const limitColour = () => (isDark() ? "#f97066" : "#d92d20");
const ink = () => (isDark() ? "#94a3b8" : "#667085");
const line = () => (isDark() ? "#2a3246" : "#e8eaef");

// `spec`: { height, x: { values, log, ticks, text, label, range }, axes: { y: { text, label, log, range, right } },
//           series: [{ label, colour, values, scale, dashed, fill, stepped, points, width }], marks: [{ x, text }], sync }
// `text` makes a value readable, with its unit; `log` is a base (2, 10); null among the values is a gap.
export function drawPlot(id, spec) {
  const element = document.getElementById(id);
  if (!element || element.offsetParent == null || !element.clientWidth) return;
  forgetThoseGone();
  let found = plots.get(id);
  const look = lookOf(spec);
  if (found && (found.look !== look || !element.contains(found.chart.root))) {
    remove(id);
    found = null;
  }
  const data = [spec.x.values, ...spec.series.map(({ values }) => values)];
  const content = JSON.stringify([data, spec.marks]);
  const width = element.clientWidth;
  if (!found) {
    element.replaceChildren();
    found = { look, spec, content, chart: null };
    plots.set(id, found);
    found.chart = new uPlot(optionsOf(found, width), data, element);
    return;
  }
  found.spec = spec;
  if (found.chart.width !== width) found.chart.setSize({ width, height: spec.height });
  if (found.content !== content) found.chart.setData(data); // else the pointer's box would flicker
  found.content = content;
}

// What is under a chart: a line of each series' own look and its name.
export const plotLegend = (series) => html`<div class="plot-legend">
  ${series.map(({ label, colour, dashed }) => html`<span><i class=${dashed ? "dashed" : ""} style="--line:${colour}"></i>${label}</span>`)}
</div>`;

function lookOf({ height, x, axes, series, sync, marks }) {
  const shape = series.map(({ label, colour, scale, dashed, fill, stepped, points }) => [label, colour, scale, dashed, fill, stepped, points]);
  const scales = Object.entries(axes).map(([name, axis]) => [name, axis.label, axis.log, axis.range, axis.right]);
  return JSON.stringify([isDark(), height, x.log, x.ticks, x.label, shape, scales, sync, Boolean(marks?.length)]);
}

function remove(id) {
  plots.get(id).chart.destroy();
  plots.delete(id);
}

function forgetThoseGone() {
  for (const [id, { chart }] of plots) if (!document.contains(chart.root)) remove(id);
}

function optionsOf(found, width) {
  const { spec } = found;
  const scales = Object.fromEntries(Object.entries(spec.axes).map(([name, axis]) => [name, yScale(axis)]));
  return {
    width,
    height: spec.height,
    padding: [spec.marks?.length ? 18 : null, null, null, null],
    legend: { show: false },
    focus: { alpha: 0.35 },
    cursor: {
      y: false,
      points: { size: 7 },
      focus: { prox: spec.series.length > 2 ? 18 : -1 },
      drag: { x: false, y: false },
      ...(spec.sync ? { sync: { key: spec.sync } } : {}),
    },
    scales: { x: xScale(found), ...scales },
    axes: [xAxis(found), ...Object.entries(spec.axes).map(([name, axis], i) => yAxis(found, name, axis, i === 0))],
    series: [{}, ...spec.series.map(seriesOf)],
    hooks: { init: [addTip], setCursor: [(chart) => moveTip(chart, found.spec)], draw: [(chart) => drawMarks(chart, found.spec)] },
  };
}

function seriesOf({ label, colour, scale = "y", dashed, fill, stepped, points = false, width = 2 }) {
  return {
    label, scale, fill, width,
    stroke: colour,
    spanGaps: points, // lines between levels go on where another line has a level more
    dash: dashed ? DASH : undefined,
    paths: stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
    points: { show: points, size: 7, fill: colour },
  };
}

// Scales

function xScale(found) {
  const { log } = found.spec.x;
  const around = (low, high) => {
    if (!log) return low === high ? [low - 1, high + 1] : [low, high];
    const margin = low === high ? log : (high / low) ** 0.04;
    return [low / margin, high * margin];
  };
  return {
    time: false,
    ...(log ? { distr: 3, log } : {}),
    range: (_, low, high) => found.spec.x.range ?? (low == null ? [1, 2] : around(low, high)),
  };
}

function yScale({ log, range }) {
  if (range) return { range: () => range };
  if (!log) return { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] };
  return {
    distr: 3, log: 10,
    range: (_, low, high) => (low == null ? [1, 10] : [roundedDown(low / 1.15), high * 1.15]),
  };
}

function roundedDown(value) {
  const magnitude = 10 ** Math.floor(Math.log10(value));
  return magnitude * Math.floor(value / magnitude);
}

// 1, 2, 5, 10, … between the two; with each digit where they are less than a magnitude apart.
function logTicks(low, high) {
  const magnitudes = Math.log10(high / low);
  const digits = magnitudes > 3.5 ? [1] : magnitudes > 0.9 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const digit of digits) {
      const tick = Number((digit * 10 ** power).toPrecision(3));
      if (tick >= low && tick <= high) found.push(tick);
    }
  return found;
}

// Axes

const axisLook = () => ({
  stroke: ink, font: FONT, labelFont: FONT, labelSize: 18,
  grid: { stroke: line, width: 1 }, ticks: { show: false }, border: { show: true, stroke: line, width: 1 },
});

function xAxis(found) {
  const { log, label, ticks } = found.spec.x;
  const splits = ticks ? () => found.spec.x.ticks : log ? (_, __, low, high) => logTicks(low, high) : undefined;
  return {
    ...axisLook(), label, size: 24, space: 60, splits,
    filter: (chart, values) => withRoom(chart, values, found.spec.x.text),
    values: (_, values) => values.map((value) => (value == null ? "" : found.spec.x.text(value))),
  };
}

// Leaves out labels that would run into the one before.
function withRoom(chart, values, text) {
  let end = -Infinity;
  return values.map((value) => {
    const middle = chart.valToPos(value, "x");
    const half = (text(value).length * LETTER) / 2;
    if (middle - half < end + NEAREST_LABELS) return null;
    end = middle + half;
    return value;
  });
}

function yAxis(found, name, { label, log, right }, first) {
  const text = (value) => found.spec.axes[name].text(value);
  return {
    ...axisLook(), label, scale: name, side: right ? 1 : 3, space: 34,
    ...(first ? {} : { grid: { show: false } }),
    ...(log ? { splits: (_, __, low, high) => logTicks(low, high), filter: (_, values) => values } : {}),
    size: (_, values) => 10 + LETTER * Math.max(3, ...(values ?? []).map((value) => value.length)),
    values: (_, values) => values.map((value) => (value == null ? "" : text(value))),
  };
}

// What stands over a chart

function addTip(chart) {
  chart.tip = Object.assign(document.createElement("div"), { className: "plot-tip", hidden: true });
  chart.over.append(chart.tip);
  chart.over.addEventListener("mouseleave", () => (chart.tip.hidden = true));
}

function moveTip(chart, spec) {
  const { idx, left } = chart.cursor;
  const rows = idx == null || left < 0 ? [] : spec.series.filter(({ values, silent }) => values[idx] != null && !silent);
  chart.tip.hidden = !rows.length;
  if (!rows.length) return;
  const head = Object.assign(document.createElement("b"), { textContent: (spec.x.told ?? spec.x.text)(spec.x.values[idx]) });
  chart.tip.replaceChildren(head, ...rows.map((series) => tipRow(series, series.values[idx], spec.axes[series.scale ?? "y"])));
  const place = chart.valToPos(spec.x.values[idx], "x");
  const { offsetWidth: wide } = chart.tip;
  const right = place + TIP_GAP + wide <= chart.over.clientWidth;
  const x = right ? place + TIP_GAP : Math.max(0, place - TIP_GAP - wide);
  chart.tip.style.transform = `translate(${Math.round(x)}px, 4px)`;
}

function tipRow({ label, colour }, value, axis) {
  const row = document.createElement("span");
  const mark = document.createElement("i");
  mark.style.background = colour;
  row.append(mark, `${label} `, Object.assign(document.createElement("b"), { textContent: (axis.told ?? axis.text)(value) }));
  return row;
}

// Vertical lines with a word each: where a level begins.
function drawMarks(chart, { marks = [] }) {
  const { ctx, bbox } = chart;
  const scale = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = ink();
  ctx.font = `${11 * scale}px system-ui, sans-serif`;
  ctx.textAlign = "left";
  ctx.textBaseline = "bottom";
  ctx.setLineDash([2 * scale, 3 * scale]);
  let end = -Infinity;
  for (const { x, text } of marks) {
    const at = Math.round(chart.valToPos(x, "x", true));
    if (at < bbox.left - 1 || at > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(at, bbox.top);
    ctx.lineTo(at, bbox.top + bbox.height);
    ctx.stroke();
    if (at < end) continue; // no room for its word
    ctx.fillText(text, at, bbox.top - 3 * scale);
    end = at + ctx.measureText(text).width + 10 * scale;
  }
  ctx.restore();
}
