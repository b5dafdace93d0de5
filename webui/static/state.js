// What the whole page knows: the newest snapshot, the history of memory, the picked model, who we are.
import { get } from "./api.js";

const INTERVAL_MS = 1000;
const HISTORY_S = 600;
const listeners = new Set();

export const state = { snapshot: null, history: [], model: null, me: null, offline: false };

export const server = (name) => state.snapshot?.servers.find((found) => found.name === name);
export const isLive = (status) => ["starting", "ready", "asleep", "stopping"].includes(status?.state);

// `listener` is called now and after each snapshot or change of the picked model.
export function subscribe(listener) {
  listeners.add(listener);
  if (state.snapshot) listener();
}

export function changed() {
  for (const listener of listeners) {
    try {
      listener();
    } catch (error) {
      console.error(error); // one part that fails must not blank the others
    }
  }
}

export async function refresh() {
  try {
    state.snapshot = await get("/api/snapshot");
    state.offline = false;
    remember(state.snapshot);
  } catch {
    state.offline = true;
  }
  changed();
}

function remember(snapshot) {
  const last = state.history.at(-1);
  if (!snapshot.host || snapshot.reading_time === last?.time) return;
  state.history.push({
    time: snapshot.reading_time,
    memory_used_bytes: snapshot.devices.map((device) => device.memory_used_bytes),
    utilization_gpu_percent: snapshot.devices.map((device) => device.utilization_gpu_percent),
    host_memory_used_bytes: snapshot.host.memory_used_bytes,
    rss_bytes: Object.fromEntries(snapshot.servers.filter((s) => s.rss_bytes).map((s) => [s.name, s.rss_bytes])),
  });
  while (state.history[0]?.time < snapshot.reading_time - HISTORY_S) state.history.shift();
}

async function catchUp() {
  try {
    state.history = await get("/api/history");
  } catch {
    state.history = [];
  }
}

export async function run() {
  state.me = await get("/api/me");
  await catchUp();
  await refresh();
  setInterval(() => document.hidden || refresh(), INTERVAL_MS);
  document.addEventListener("visibilitychange", async () => {
    if (document.hidden) return;
    await catchUp(); // nothing was asked for while nobody looked
    refresh();
  });
}
