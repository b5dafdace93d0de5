// The conversation that this tab shows: the current path of its turns, as the app keeps it. Other parts of the page use
//   currentConversation()   {id, title, keep, busy, systemPrompt, turns}; to be read only
//   openConversation(id)    shows another one; an answer that is being made in this one goes on
//   newChat({keep})         an empty one; keep: false is not written to disk
//   onConversation(fn)      fn(what) after each change; `what` is "opened", "turn" (one is over) or "path" (another
//                           alternative is shown, or the title was changed); returns a function that ends it
import { conversationPath, get, post } from "./api.js";
import { askIn } from "./ask.js";
import { newId, onTabs, ownConversation, takeConversation, tellTabs } from "./tab.js";

const BUSY_MS = 500;
const listeners = new Set();
let shown = empty(null);
let opening = 0;

function empty(id, keep = true) {
  return { id, title: "", keep, busy: false, systemPrompt: null, turns: [] };
}

export { conversationPath };
export const currentConversation = () => shown;

export function onConversation(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function tell(what) {
  for (const listener of listeners) {
    try {
      listener(what);
    } catch (error) {
      console.error(error); // one part that fails must not blank the others
    }
  }
}

function take({ title, busy, turns, kept, system_prompt: systemPrompt }) {
  Object.assign(shown, { title: title ?? "", busy: Boolean(busy), turns, systemPrompt: systemPrompt ?? null });
  if (turns.length) shown.keep = kept; // an empty one is not known yet: it stays what it was begun as
}

// Looks at it again; while another tab's answer is made in it, until that is over. Raises ApiError.
export async function reload(what = "path") {
  const { id } = shown;
  const found = await get(conversationPath(id));
  if (id !== shown.id) return;
  taken(found, what);
}

function taken(found, what) {
  const { id } = shown;
  take(found);
  if (shown.busy && !askIn(id)) setTimeout(() => id === shown.id && reload().catch(() => {}), BUSY_MS);
  tell(what);
}

// Until it is there, the one before is shown: what is sent meanwhile must not go to the beginning of this one.
export async function openConversation(id) {
  const mine = ++opening;
  const found = await get(conversationPath(id));
  if (mine !== opening) return; // another one was picked meanwhile
  shown = empty(takeConversation(id));
  taken(found, "opened");
}

export function newChat({ keep = true } = {}) {
  opening++;
  shown = empty(takeConversation(newId()), keep);
  tell("opened");
}

// The one of this tab, at the beginning. Somebody else's, after a change of user in this browser, is left alone.
export async function restoreConversation() {
  const id = await ownConversation();
  try {
    await openConversation(id);
  } catch (error) {
    if (error.code !== "offline") return newChat();
    shown = empty(id); // looked at again once the app answers
    tell("opened");
  }
}

// Shows a sibling of a turn with what was said after it. Raises ApiError.
export async function selectTurn(turn) {
  const { id } = shown;
  const found = await post(conversationPath(id, "/select"), { turn });
  if (id !== shown.id) return;
  take(found);
  tell("path");
  tellTabs(id);
}

// Goes on in a new conversation with all up to a turn. Raises ApiError.
export async function branchAt(turn) {
  const { id } = await post(conversationPath(shown.id, "/branch"), { turn });
  await openConversation(id);
}

// Where a turn with this parent stands in what is shown.
export function placeAfter(parent) {
  return parent == null ? 0 : shown.turns.findIndex((turn) => turn.id === parent) + 1;
}

// A turn that is over takes its place: after its parent, as the newest of its siblings.
export function addTurn(turn, id) {
  if (id === shown.id) {
    const at = placeAfter(turn.parent);
    const others = (shown.turns[at]?.siblings ?? []).filter((sibling) => sibling !== turn.id);
    shown.turns = [...shown.turns.slice(0, at), { ...turn, siblings: [...others, turn.id] }];
  }
  tell("turn");
  tellTabs(id);
}

onTabs(() => reload().catch(() => {}));
