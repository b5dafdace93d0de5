// The smoke test on a server's card: a button, and what came of it until the server ends or the card is told to forget.
import { post, serverPath } from "./api.js";
import { duration, integer } from "./format.js";
import { locale, t } from "./i18n.js";
import { icon } from "./icons.js";
import { html, nothing } from "./vendor/lit-html.js";

const tests = new Map(); // by server: { running } or { life, result } or { life, error }

// Another process under the same name has not been tested.
const lifeOf = (s) => `${s.pid} ${s.base_url}`;
const isUp = (s) => (s.attached ? s.state !== "failed" : s.state === "ready" || s.state === "asleep");

async function run(s, redraw) {
  const began = Date.now();
  tests.set(s.name, { running: () => duration((Date.now() - began) / 1000) });
  redraw();
  try {
    tests.set(s.name, { life: lifeOf(s), result: await post(serverPath(s.name, "/smoke")) });
  } catch (error) {
    tests.set(s.name, { life: lifeOf(s), error: error.message });
  }
  redraw();
}

export function smokeButton(s, redraw) {
  if (!isUp(s)) return nothing;
  const running = Boolean(tests.get(s.name)?.running);
  return html`<button type="button" class="btn" title=${t("smoke_info")} ?disabled=${running} @click=${() => run(s, redraw)}>${t("smoke_test")}</button>`;
}

export function smokeResult(s, redraw) {
  const test = tests.get(s.name);
  if (!test) return nothing;
  if (test.running) return html`<div class="cap" role="status">${t("smoke_running", { d: test.running() })}</div>`;
  if (!isUp(s) || test.life !== lifeOf(s)) {
    tests.delete(s.name);
    return nothing;
  }
  const forget = () => {
    tests.delete(s.name);
    redraw();
  };
  const close = html`<button class="icon" aria-label=${t("close")} title=${t("close")} @click=${forget}>${icon("remove")}</button>`;
  if (test.error) return html`<section class="smoke" role="alert"><header><b>${test.error}</b>${close}</header></section>`;
  return resultCard(test.result, close);
}

function resultCard(result, close) {
  const passed = result.verdict === "pass";
  const words = result.translations[locale] ?? { ...result, prompts: result.prompts.map((prompt) => prompt.reasons) };
  return html`<section class="smoke ${result.verdict}" role="status" data-verdict=${result.verdict}>
    <header>
      <span class="chip ${passed ? "chip-ready" : "chip-failed"}">${t(passed ? "smoke_pass" : "smoke_fail")}</span>
      <span class="cap">${overall(result)}</span>${close}
    </header>
    ${words.reasons.map((reason) => html`<p>${reason}</p>`)}
    <dl>${result.prompts.map((prompt, i) => onePrompt(prompt, words.prompts[i]))}</dl>
    ${words.not_judged.map((note) => html`<p class="cap">${note}</p>`)}
  </section>`;
}

const onePrompt = (prompt, findings) => html`<dt>${prompt.prompt} …</dt>
  <dd>
    ${prompt.text == null ? nothing : html`<span class="said">${prompt.text.trim().replace(/\n\s*\n/g, "\n") || t("smoke_nothing_said")}</span>`}
    ${findings.map((finding) => html`<span class="bad">${finding}</span>`)}
  </dd>`;

function overall({ seconds, perplexity }) {
  const { prompt, answer } = perplexity ?? {};
  return [
    `${seconds.toFixed(1)} s`,
    prompt != null && t("smoke_prompt_perplexity_is", { n: rounded(prompt) }),
    answer != null && t("smoke_answer_perplexity_is", { n: rounded(answer) }),
  ].filter(Boolean).join(" · ");
}

const rounded = (value) => (value < 100 ? value.toFixed(1) : value < 1e6 ? integer(value) : value.toExponential(0));
