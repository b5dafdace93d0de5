// How a load test measures, in plain words: what stands beside its charts.
import { figure } from "./load_format.js";
import { t } from "./i18n.js";
import { html, nothing } from "./vendor/lit-html.js";

const isSet = (limits) => Object.entries(limits ?? {}).filter(([, value]) => value != null);

function load({ settings: s }) {
  if (s.sla) return t("load_method_sla", { ms: figure(s.sla.ttft_p99_ms) });
  return s.request_rates?.length ? t("load_method_rate") : t("load_method_concurrency");
}

function prompts({ settings: s }) {
  const values = { input: s.input_len, output: s.output_len };
  if (s.dataset !== "random") return t("load_method_file", { path: s.dataset_path, output: s.output_len });
  const length = s.ignore_eos ? t("load_method_random", values) : t("load_method_random_most", values);
  return s.range_ratio ? `${length} ${t("load_method_range", { percent: figure(100 * s.range_ratio) })}` : length;
}

function method(run) {
  const { settings: s, environment: { vllm_version: version } } = run;
  const goodput = isSet(s.goodput).map(([key, limit]) => `${key.toUpperCase()} ${figure(limit)} ms`).join(", ");
  return [
    t("load_method_generator", { version: version ? ` ${version}` : "" }),
    prompts(run), load(run), t("load_method_requests", { n: s.num_prompts }),
    s.num_warmups ? t("load_method_warmups", { n: s.num_warmups }) : "",
    run.kind === "ladder" ? t("load_method_ladder") : "",
    goodput ? t("load_method_goodput", { limits: goodput }) : "",
    t("load_method_samples"),
  ].filter(Boolean);
}

const TERMS = ["ttft", "tpot", "itl", "e2el", "p99", "throughput"];

export function methodView(run) {
  return html`<section class="deck-card deck-pad load-method">
    <h3>${t("load_method")}</h3>
    <ul>${method(run).map((line) => html`<li>${line}</li>`)}</ul>
    <dl>${TERMS.map((term) => html`<dt>${t(`load_term_${term}`)}</dt><dd>${t(`load_means_${term}`)}</dd>`)}</dl>
    ${run.started_at ? environment(run) : nothing}
  </section>`;
}

function environment({ environment: { vllm_version: version, gpus, serve_command: commands = [], app_version: app } }) {
  const facts = [version && `vLLM ${version}`, gpus?.length ? counted(gpus) : t("load_no_gpu"), app && `vLLM Deck ${app}`].filter(Boolean);
  return html`<p class="cap">${facts.join(" · ")}</p>
    ${commands.filter(Boolean).length
      ? html`<details class="command"><summary>${t("load_serve_command")}</summary>${commands.filter(Boolean).map((line) => html`<pre>${line}</pre>`)}</details>`
      : nothing}`;
}

// "2 × NVIDIA H100"
export function counted(names) {
  const counts = new Map();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, n]) => (n > 1 ? `${n} × ${name}` : name)).join(", ");
}
