// The Load test tab: the form of a new test, the runs that are kept, and the page of the one that is shown.
import { t } from "./i18n.js";
import { drawCharts, noCharts } from "./load_charts.js";
import { compareView } from "./load_compare.js";
import { chosenServers, formView } from "./load_form.js";
import { runView } from "./load_run.js";
import { runsView } from "./load_runs.js";
import { isOperator, lookAgain, startState, view } from "./load_state.js";
import { smokeResult } from "./smoke.js";
import { state, subscribe } from "./state.js";
import { html, nothing, render } from "./vendor/lit-html.js";

const place = () => {
  const found = document.getElementById("load-test");
  return found?.offsetParent == null ? null : found;
};

const welcome = () => html`<section class="deck-card deck-pad load-welcome"><h2>${t("load_welcome")}</h2><p>${t("load_welcome_how")}</p><p>${t("load_welcome_ladder")}</p></section>`;

function smoke(s) {
  const found = smokeResult(s, draw);
  return found === nothing ? nothing : html`<section class="deck-card deck-pad load-smoke"><h3>${s.name}</h3>${found}</section>`;
}

function page() {
  noCharts();
  if (view.compared) return compareView(draw);
  return view.shown ? runView() : welcome();
}

function draw() {
  const target = place();
  if (!target || !state.snapshot || !state.me) return;
  if (!isOperator()) return render(html`<p class="empty">${t("load_for_operators")}</p>`, target);
  render(
    html`<div class="load-columns">
      <div class="load-side">${formView()} ${runsView()}</div>
      <div class="load-main">${view.note ? html`<div class="banner bad" role="alert">${view.note}</div>` : nothing} ${chosenServers().map(smoke)} ${page()}</div>
    </div>`,
    target,
  );
  return drawCharts();
}

function look() {
  draw();
  if (place()) lookAgain();
}

export function startLoadTests() {
  startState(draw);
  subscribe(look);
  // A tab that is opened has been hidden until now: nothing was drawn there.
  document.addEventListener("click", ({ target }) => target.closest("[role=tab]") && requestAnimationFrame(look));
  addEventListener("resize", draw);
}
