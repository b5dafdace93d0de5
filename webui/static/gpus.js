// The GPUs tab and the small plot beside the chat.
import { UNKNOWN, duration, gib, memory } from "./format.js";
import { locale, t } from "./i18n.js";
import { ledgerOf, ledgerView, legend } from "./ledger.js";
import { leftoversCard } from "./leftovers.js";
import { state, subscribe } from "./state.js";
import { html, nothing, render } from "./vendor/lit-html.js";
import uPlot from "./vendor/uPlot.esm.js";

const GiB = 2 ** 30;
const plots = new Map(); // element id -> uPlot

const dark = () => document.body.classList.contains("dark");
const ink = () => (dark() ? "#94a3b8" : "#667085");
const line = () => (dark() ? "#2a3246" : "#e8eaef");

// Draws into #id, or updates what is drawn there. `series`: [{label, color, fill, unit, scale, values}].
function plot(id, height, times, series, maximum) {
  const element = document.getElementById(id);
  if (!element || element.offsetParent == null) return;
  const width = element.clientWidth;
  let found = plots.get(id);
  const look = `${dark()} ${series.map((s) => s.label).join()} ${maximum}`;
  if (found && (found.look !== look || !element.contains(found.chart.root))) {
    found.chart.destroy();
    found = null;
  }
  const data = [times, ...series.map((s) => s.values)];
  if (found) {
    if (found.chart.width !== width) found.chart.setSize({ width, height });
    found.chart.setData(data);
    return;
  }
  element.replaceChildren();
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  const percent = series.some((s) => s.scale === "%");
  const chart = new uPlot(
    {
      width, height,
      legend: { show: false },
      cursor: { points: { size: 5 } },
      scales: { x: { time: true }, y: { range: [0, maximum] }, "%": { range: [0, 100] } },
      axes: [
        { ...axis, size: 24, space: 80, values: (_, ticks) => ticks.map(clock) },
        { ...axis, size: 44, values: (_, ticks) => ticks.map((v) => `${v}`) },
        ...(percent ? [{ ...axis, scale: "%", side: 1, size: 40, grid: { show: false }, values: (_, v) => v.map((x) => `${x}%`) }] : []),
      ],
      series: [
        {},
        ...series.map((s) => ({ label: s.label, stroke: s.color, fill: s.fill, width: 1.5, scale: s.scale ?? "y", points: { show: false } })),
      ],
    },
    data, element,
  );
  plots.set(id, { chart, look });
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString(locale, { hour12: false });
const times = () => state.history.map((point) => point.time);
const memorySeries = (label, values) => ({ label, color: "#4f46e5", fill: "rgba(99,102,241,.18)", values });

function plotDevice(id, height, index, device) {
  const used = state.history.map((point) => toGiB(point.memory_used_bytes[index]));
  const busy = state.history.map((point) => point.utilization_gpu_percent[index] ?? null);
  const series = [memorySeries("GiB", used)];
  if (busy.some((value) => value != null)) series.push({ label: "%", color: "#0ea5e9", scale: "%", values: busy });
  plot(id, height, times(), series, device.memory_total_bytes / GiB);
}

function plotHost(id, height) {
  const used = state.history.map((point) => toGiB(point.host_memory_used_bytes));
  const ours = state.history.map((point) => toGiB(Object.values(point.rss_bytes ?? {}).reduce((a, b) => a + b, 0)));
  const total = state.snapshot.host.memory_total_bytes / GiB;
  plot(id, height, times(), [
    { label: t("used"), color: "#94a3b8", fill: "rgba(148,163,184,.18)", values: used },
    memorySeries(t("servers"), ours),
  ], total);
}

const toGiB = (bytes) => (bytes == null ? null : bytes / GiB);

const fact = (label, value) => html`<span class="fact"><b>${value}</b><span class="cap">${label}</span></span>`;
const orUnknown = (value, unit, scale = 1) => (value == null ? UNKNOWN : `${Math.round(value / scale)} ${unit}`);

function processes(device, position) {
  if (device.processes == null) return html`<p class="cap">${t("processes_hidden")}</p>`;
  if (!device.processes.length) return html`<p class="cap">${t("processes_none")}</p>`;
  const owner = new Map();
  for (const s of state.snapshot.servers) for (const pid of s.pids ?? []) owner.set(pid, s.name);
  for (const each of ledgerOf(position).owners) if (each.kind === "leftover") for (const pid of each.pids) owner.set(pid, t("left_of", { name: each.name }));
  const age = (p) => (p.started_at == null ? UNKNOWN : duration(state.snapshot.time - p.started_at));
  return html`<div class="wide"><table>
    <tr><th>${t("owner")}</th><th>${t("memory")}</th><th>pid</th><th>${t("process")}</th><th>${t("user")}</th><th>${t("up")}</th></tr>
    ${device.processes.map(
      (p) => html`<tr>
        <td class="long">${owner.get(p.pid) ?? t("others")}</td><td>${memory(p.used_gpu_memory_bytes)}</td><td>${p.pid}</td>
        <td class="long">${p.name ?? UNKNOWN}</td><td>${p.user ?? UNKNOWN}</td><td>${age(p)}</td>
      </tr>`,
    )}
  </table></div>`;
}

function deviceCard(device, i) {
  const title = html`<h3>GPU ${device.index} · ${device.name ?? UNKNOWN}</h3>`;
  if (device.error) return html`<section class="deck-card deck-pad">${title}<div class="banner bad">${device.error}</div></section>`;
  return html`<section class="deck-card deck-pad">
    ${title} ${ledgerView(i)}
    <div class="facts">
      ${fact(t("used_of_total"), `${gib(device.memory_used_bytes)} / ${gib(device.memory_total_bytes)} GiB`)}
      ${fact(t("free"), memory(device.memory_free_bytes))}
      ${fact(t("utilization"), orUnknown(device.utilization_gpu_percent, "%"))}
      ${fact(t("temperature"), orUnknown(device.temperature_gpu_celsius, "°C"))}
      ${fact(t("power"), device.power_limit_milliwatts == null
        ? orUnknown(device.power_usage_milliwatts, "W", 1000)
        : `${orUnknown(device.power_usage_milliwatts, "", 1000)}/ ${orUnknown(device.power_limit_milliwatts, "W", 1000)}`)}
    </div>
    <div class="plot" id="plot-${i}"></div>
    ${processes(device, i)}
  </section>`;
}

function hostCard() {
  const { host, servers, devices } = state.snapshot;
  return html`<section class="deck-card deck-pad">
    <h3>${t("this_machine")}</h3>
    ${ledgerView(null)}
    <div class="facts">
      ${fact(t("used_of_total"), `${gib(host.memory_used_bytes)} / ${gib(host.memory_total_bytes)} GiB`)}
      ${fact(t("available"), memory(host.memory_available_bytes))}
      ${fact(t("processor", { n: host.cpu_count }), `${Math.round(host.cpu_percent)} %`)}
    </div>
    ${devices.length ? nothing : html`<div class="plot" id="plot-host"></div>`}
    ${servers.some((s) => s.rss_bytes)
      ? html`<table><tr><th>${t("server")}</th><th>pid</th><th>RSS</th><th>${t("up")}</th></tr>
          ${servers.filter((s) => s.rss_bytes).map((s) => html`<tr>
            <td>${s.name}</td><td>${s.pid ?? UNKNOWN}</td><td>${memory(s.rss_bytes)}</td><td>${duration(s.elapsed_s)}</td>
          </tr>`)}</table>`
      : html`<p class="cap">${t("no_servers")}</p>`}
  </section>`;
}

function draw() {
  const target = document.getElementById("gpu-cards");
  if (target && state.snapshot?.host && target.offsetParent != null) {
    const { devices, devices_error: error } = state.snapshot;
    render(
      html`${error ? html`<div class="banner">${error}</div>` : nothing} ${devices.map(deviceCard)} ${hostCard()} ${leftoversCard()}`,
      target,
    );
    devices.forEach((device, i) => device.error || plotDevice(`plot-${i}`, 180, i, device));
    if (!devices.length) plotHost("plot-host", 180);
  }
  drawSide();
}

function drawSide() {
  const side = document.getElementById("side-plot");
  if (!side || side.offsetParent == null || !state.snapshot?.host) return;
  const { devices } = state.snapshot;
  const device = devices.find((d) => !d.error);
  const position = device ? devices.indexOf(device) : null;
  render(
    html`<div class="deck-card-head">${device ? `GPU ${device.index}` : t("memory")}</div>
      <div class="plot" id="plot-side"></div>
      ${legend(ledgerOf(position), position, { small: true })}`,
    side,
  );
  if (device) plotDevice("plot-side", 110, position, device);
  else plotHost("plot-side", 110);
}

export function startGpus() {
  subscribe(draw);
  document.addEventListener("click", () => requestAnimationFrame(() => state.snapshot && draw()));
  addEventListener("resize", () => state.snapshot && draw());
}
