// The form of a new load test; with several models ticked it is the ladder.
import { chip } from "./header.js";
import { t } from "./i18n.js";
import { begin, redraw, view } from "./load_state.js";
import { segments } from "./segments.js";
import { smokeButton } from "./smoke.js";
import { isLive, server, state } from "./state.js";
import { html, nothing } from "./vendor/lit-html.js";

const KEY = "deck-load-form";
const NUMBERS = ["input_len", "output_len", "num_prompts", "num_warmups", "range_ratio", "temperature", "seed"];
const LIMITS = ["ttft", "tpot", "e2el"];
const SEPARATORS = /[\s,，、;；]+/;
const FIRST = {
  models: [], preset: "chat", by: "concurrency", concurrency: "1, 8, 32", request_rates: "1, 2, 4", dataset: "random", dataset_path: "",
  sla_ttft: "200", sla_most: "256", api: "chat", ignore_eos: true, goodput_ttft: "", goodput_tpot: "", goodput_e2el: "",
  tokenizer: "", extra: "", name: "",
};
const form = { ...FIRST, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
const first = { isChosen: false, isFilled: false }; // whether models and fields have their first values
const sending = { busy: false, error: "" };

function set(changes) {
  Object.assign(form, changes);
  sending.error = "";
  localStorage.setItem(KEY, JSON.stringify(form));
  redraw();
}

// The settings of a run, to be changed and tried again.
export function fillFrom(run) {
  const { settings: own } = run;
  const text = (value) => (value == null ? "" : String(value));
  set({
    ...Object.fromEntries([...NUMBERS, "dataset_path", "tokenizer", "extra"].map((key) => [key, text(own[key])])),
    ...Object.fromEntries(LIMITS.map((key) => [`goodput_${key}`, text(own.goodput?.[key])])),
    models: run.rows.map(({ model }) => model).filter((name) => server(name)),
    preset: own.preset, dataset: own.dataset, api: own.api, ignore_eos: own.ignore_eos, name: "",
    by: own.sla ? "sla" : own.request_rates.length ? "rate" : "concurrency",
    ...(own.concurrency.length ? { concurrency: own.concurrency.join(", ") } : {}),
    ...(own.request_rates.length ? { request_rates: own.request_rates.join(", ") } : {}),
    ...(own.sla ? { sla_ttft: text(own.sla.ttft_p99_ms), sla_most: text(own.sla.max_concurrency) } : {}),
  });
  document.getElementById("load-form")?.scrollIntoView({ block: "start", behavior: "smooth" });
}

function fieldsOf(name) {
  const { concurrency, dataset, api, ignore_eos, ...settings } = view.presets[name];
  const values = Object.fromEntries(NUMBERS.filter((key) => settings[key] != null).map((key) => [key, String(settings[key])]));
  return { ...values, preset: name, dataset, api, ignore_eos, ...(concurrency.length ? { concurrency: concurrency.join(", ") } : {}) };
}

// What was typed before, in this visit or an earlier one, stays.
function fillFirst() {
  if (!first.isChosen && state.model) {
    first.isChosen = true;
    form.models = form.models.filter((name) => server(name));
    if (!form.models.length) form.models = [state.model];
  }
  if (first.isFilled || !view.presets) return;
  first.isFilled = true;
  if (!(form.preset in view.presets)) form.preset = Object.keys(view.presets)[0];
  Object.assign(form, { ...fieldsOf(form.preset), ...form });
}

const parts = (text) => text.split(SEPARATORS).filter(Boolean);
const number = (text) => (text === "" || text == null ? null : Number(text));
const concurrencies = () => parts(form.concurrency).map(Number);
const rates = () => parts(form.request_rates).map((text) => (/^(inf|∞)$/i.test(text) ? "inf" : Number(text)));

function settings() {
  const numbers = Object.fromEntries(NUMBERS.map((key) => [key, number(form[key])]).filter(([, value]) => value != null));
  const goodput = Object.fromEntries(LIMITS.map((key) => [key, number(form[`goodput_${key}`])]).filter(([, value]) => value != null));
  if (form.dataset !== "random") numbers.output_len ??= null; // as long as the answers in the file
  return {
    ...numbers, goodput,
    preset: form.preset, dataset: form.dataset, dataset_path: form.dataset === "random" ? "" : form.dataset_path.trim(),
    concurrency: form.by === "concurrency" ? concurrencies() : [],
    request_rates: form.by === "rate" ? rates() : [],
    sla: form.by === "sla" ? { ttft_p99_ms: number(form.sla_ttft), max_concurrency: number(form.sla_most) } : null,
    api: form.api, ignore_eos: form.ignore_eos, tokenizer: form.tokenizer.trim(), extra: form.extra.trim(),
  };
}

// What is wrong with the form, as far as it can be seen here; the app looks at the rest.
function mistake() {
  if (!form.models.length) return t("load_pick_model");
  const levels = { concurrency: concurrencies, rate: rates }[form.by]?.();
  if (levels && (!levels.length || levels.some((level) => level !== "inf" && !(level > 0)))) return t("load_bad_levels");
  if (form.dataset !== "random" && !form.dataset_path.trim()) return t("load_no_dataset");
  return "";
}

async function submit(event) {
  event.preventDefault();
  if (sending.busy) return;
  sending.error = mistake();
  if (sending.error) return redraw();
  sending.busy = true;
  redraw();
  try {
    const name = form.name.trim();
    await begin({ servers: form.models, settings: settings(), ...(name ? { name } : {}) });
    form.name = "";
    // On a phone what has begun is further down.
    requestAnimationFrame(() => document.getElementById("load-run")?.scrollIntoView({ block: "start", behavior: "smooth" }));
  } catch (error) {
    sending.error = error.message;
  }
  sending.busy = false;
  redraw();
}

// Fields

function field(key, label, { info = "", type = "text", unit = "", ...more } = {}) {
  return html`<label class="load-field" title=${info || nothing}><span>${label}${unit ? html` <small>${unit}</small>` : nothing}</span>
    <input type=${type} inputmode=${type === "number" ? "decimal" : nothing} min=${more.min ?? nothing} step=${more.step ?? "any"}
      placeholder=${more.placeholder ?? nothing} name=${key} .value=${form[key] ?? ""} @input=${({ target }) => set({ [key]: target.value })} /></label>`;
}

const whole = (key, label, more) => field(key, label, { type: "number", min: 0, step: 1, ...more });

function choice(key, label, values, onPick = (value) => set({ [key]: value })) {
  return html`<label class="load-field"><span>${label}</span>
    <select name=${key} @change=${({ target }) => onPick(target.value)}>
      ${values.map(([value, text]) => html`<option value=${value} .selected=${form[key] === value}>${text}</option>`)}
    </select></label>`;
}

function tick(name, checked) {
  const others = form.models.filter((model) => model !== name);
  const order = state.snapshot.servers.map((s) => s.name);
  set({ models: (checked ? [...others, name] : others).sort((a, b) => order.indexOf(a) - order.indexOf(b)) });
}

function models() {
  const { servers } = state.snapshot;
  const live = (s) => isLive(s) || s.attached;
  const sorted = [...servers.filter(live), ...servers.filter((s) => !live(s))];
  return html`<fieldset class="load-models"><legend>${t("load_models")} <small>${t("load_models_info")}</small></legend>
    <div>${sorted.map((s) => html`<label><input type="checkbox" name="model" value=${s.name} .checked=${form.models.includes(s.name)}
        @change=${({ target }) => tick(s.name, target.checked)} /><span>${s.name}</span>${s.state === "stopped" ? nothing : chip(s)}</label>`)}</div>
  </fieldset>`;
}

function levels() {
  const body = {
    concurrency: () => field("concurrency", t("load_levels"), { info: t("load_levels_info"), placeholder: "1, 8, 32" }),
    rate: () => field("request_rates", t("load_rates"), { info: t("load_rates_info"), placeholder: "1, 2, 4, inf" }),
    sla: () => html`<div class="load-pair">${field("sla_ttft", t("load_sla_limit"), { type: "number", min: 1, unit: "ms" })}
      ${whole("sla_most", t("load_sla_most"), { min: 1 })}</div><p class="cap">${t("load_sla_info")}</p>`,
  };
  const options = ["concurrency", "rate", "sla"].map((kind) => [kind, t(`load_by_${kind}`)]);
  return html`${segments(t("load_levels"), options, form.by, (by) => set({ by }), "load-kinds")}
    ${body[form.by]()}`;
}

function more() {
  return html`<details class="load-more">
    <summary class="cap">${t("load_more")}</summary>
    <fieldset class="load-limits" title=${t("load_goodput_info")}><legend>${t("load_goodput_limits")} <small>ms</small></legend>
      <div class="load-three">${LIMITS.map((key) => field(`goodput_${key}`, key.toUpperCase(), { type: "number", min: 0 }))}</div>
    </fieldset>
    <div class="load-pair">
      ${choice("api", t("load_api"), [["chat", t("load_api_chat")], ["completions", t("load_api_completions")]])}
      ${field("temperature", t("load_temperature"), { type: "number", min: 0 })}
      ${form.dataset === "random" ? field("range_ratio", t("load_range"), { type: "number", min: 0, info: t("load_range_info") }) : nothing}
      ${whole("seed", t("load_seed"), { info: t("load_seed_info") })}
    </div>
    <label class="load-check"><input type="checkbox" name="ignore_eos" .checked=${form.ignore_eos} @change=${({ target }) => set({ ignore_eos: target.checked })} />
      <span>${t("load_ignore_eos")}</span></label>
    ${field("tokenizer", t("load_tokenizer"), { info: t("load_tokenizer_info"), placeholder: t("load_tokenizer_own") })}
    ${field("extra", t("load_extra"), { info: t("load_extra_info"), placeholder: "--burstiness 0.5" })}
    ${field("name", t("name"), { placeholder: t("load_name_info") })}
  </details>`;
}

// A test at a concurrency sends twice that many requests at least, so that it is really reached.
function requestsNote() {
  const least = number(form.num_prompts);
  const raised = form.by === "concurrency" ? concurrencies().filter((level) => 2 * level > least) : [];
  if (!raised.length) return nothing;
  const list = raised.map((level) => t("load_requests_at", { n: 2 * level, level })).join(t("list_comma"));
  return html`<p class="cap">${t("load_requests_raised", { list })}</p>`;
}

function startNote() {
  const down = form.models.filter((name) => !["ready", "starting"].includes(server(name)?.state) && !server(name)?.attached);
  if (form.models.length > 1) return html`<p class="cap">${t("load_ladder_info")}</p>`;
  return down.length ? html`<p class="cap">${t("load_starts_it", { name: down[0] })}</p>` : nothing;
}

// Each can be asked whether it talks sense, before it is measured.
export const chosenServers = () => (form.models.length > 1 ? [] : form.models.map(server).filter(Boolean));

export function formView() {
  fillFirst();
  const n = form.models.length;
  const random = form.dataset === "random";
  return html`<form class="deck-card deck-pad load-form" id="load-form" autocomplete="off" @submit=${submit} novalidate>
    <h3>${t("load_new")}</h3>
    ${models()}
    ${choice("preset", t("load_preset"), Object.keys(view.presets ?? {}).map((name) => [name, t(`load_preset_${name}`)]), (name) => set(fieldsOf(name)))}
    <div class="load-pair">
      ${random ? whole("input_len", t("load_input"), { unit: t("load_unit_tokens"), min: 1 }) : nothing}
      ${whole("output_len", t("load_output"), { unit: t("load_unit_tokens"), min: 1, placeholder: random ? "" : t("load_as_in_file") })}
      ${whole("num_prompts", t("load_requests"), { min: 1, info: t("load_requests_info") })} ${whole("num_warmups", t("load_warmups"), { info: t("load_warmups_info") })}
    </div>
    ${levels()} ${requestsNote()}
    <div class=${random ? "" : "load-pair"}>
      ${choice("dataset", t("load_dataset"), ["random", "sharegpt", "custom"].map((value) => [value, t(`load_dataset_${value}`)]))}
      ${random ? nothing : field("dataset_path", t("load_path"), { info: t("load_path_info"), placeholder: "/data/…" })}
    </div>
    ${more()}
    ${startNote()}
    ${sending.error ? html`<div class="banner bad" role="alert">${sending.error}</div>` : nothing}
    <div class="load-send">
      <button class="btn primary" id="load-start" ?disabled=${sending.busy}>${n > 1 ? t("load_start_ladder", { n }) : t("load_start")}</button>
      ${chosenServers().map((s) => smokeButton(s, redraw))}
    </div>
  </form>`;
}
