// Load tests as the page knows them: the runs that are kept, the one that is shown, those that are compared.
import { call, get, loadTestPath, post } from "./api.js";
import { state } from "./state.js";
import { recallHere } from "./tab.js";

const LIST_MS = 10_000; // between two looks at the list while nothing runs
const BUSY_MS = 2000; // and while something does
export const MOST_COMPARED = 6;

export const view = {
  runs: null, running: null, listError: "",
  shown: recallHere("deck-load-test") || null, run: null, runError: "",
  ticked: new Set(), compared: null,
  presets: null, note: null, stopping: null,
};
let drawAll = () => {};
let listed = 0;
let asking = false;

export const isOperator = () => state.me?.role === "operator";
export const redraw = () => drawAll();
const isOn = (run) => ["queued", "running"].includes(run?.state);

// `draw` draws all of the tab.
export function startState(draw) {
  drawAll = draw;
}

// Asks for what may have changed; called once a second while somebody looks at the tab.
export async function lookAgain() {
  if (!isOperator() || asking) return;
  asking = true;
  try {
    view.presets ??= await get("/api/load-tests/presets");
    const busy = view.running || view.runs?.some(isOn);
    if (Date.now() - listed > (busy ? BUSY_MS : LIST_MS)) await loadList();
    if (view.shown && !view.compared && (!view.run || isOn(view.run))) await loadRun();
  } catch (error) {
    view.listError = error.message;
  } finally {
    asking = false;
  }
  redraw();
}

export async function loadList() {
  listed = Date.now();
  try {
    const { runs, running } = await get("/api/load-tests");
    Object.assign(view, { runs, running, listError: "" });
    const ids = new Set(runs.map(({ id }) => id));
    for (const id of view.ticked) if (!ids.has(id)) view.ticked.delete(id);
  } catch (error) {
    view.listError = error.message;
  }
}

async function loadRun() {
  const id = view.shown;
  try {
    const run = await get(loadTestPath(id));
    if (id === view.shown) Object.assign(view, { run, runError: "" });
    if (!isOn(run)) listed = 0; // its line in the list says so too
  } catch (error) {
    if (id !== view.shown) return; // another one was picked meanwhile
    if (error.code === "unknown_load_test") return showRun(null);
    view.runError = error.message;
  }
}

export function showRun(id) {
  Object.assign(view, { shown: id, run: view.run?.id === id ? view.run : null, runError: "", compared: null });
  sessionStorage.setItem("deck-load-test", id ?? "");
  redraw();
  if (id) lookAgain();
}

// What a button does; an error stands on the page until the next one works.
export async function guarded(work) {
  view.note = null;
  try {
    await work();
  } catch (error) {
    view.note = error.message;
  }
  redraw();
}

async function shownAnew(run) {
  await loadList();
  showRun(run.id);
}

export const begin = async (body) => shownAnew(await post("/api/load-tests", body));
export const repeat = (id) => guarded(async () => shownAnew(await post(loadTestPath(id, "/repeat"))));

// Answers when nothing of the generator is left.
export const stop = (id) =>
  guarded(async () => {
    view.stopping = id;
    redraw();
    try {
      await post(loadTestPath(id, "/stop"));
    } finally {
      view.stopping = null;
    }
    await Promise.all([loadList(), view.shown === id ? loadRun() : null]);
  });

export const rename = (id, name) =>
  guarded(async () => {
    const changed = await call("PATCH", loadTestPath(id), { name });
    if (view.run?.id === id) view.run = { ...view.run, name: changed.name };
    await loadList();
  });

export const remove = (id) =>
  guarded(async () => {
    await call("DELETE", loadTestPath(id));
    view.ticked.delete(id);
    if (view.shown === id) showRun(null);
    await loadList();
  });

// Overlays the ticked runs, oldest first: what came later is compared with it.
export const compare = () =>
  guarded(async () => {
    const ids = view.runs.map(({ id }) => id).filter((id) => view.ticked.has(id)).reverse();
    const [found, ...runs] = await Promise.all([
      get(`/api/load-tests/compare?ids=${ids.map(encodeURIComponent).join()}`),
      ...ids.map((id) => get(loadTestPath(id))),
    ]);
    view.compared = { ...found, runs };
  });

export function closeComparison() {
  view.compared = null;
  redraw();
}
