// What belongs to this tab of the browser. It survives a reload; a new tab begins with what was used last.
const channel = new BroadcastChannel("deck-tabs"); // unlike locks, it is there without HTTPS too
let conversation = null;

export const recallHere = (key) => sessionStorage.getItem(key);
export const recall = (key) => recallHere(key) ?? localStorage.getItem(key);

export function remember(key, value) {
  sessionStorage.setItem(key, value);
  localStorage.setItem(key, value);
}

channel.addEventListener("message", ({ data }) => {
  if (data.wanted && data.wanted === conversation) channel.postMessage({ taken: conversation });
});

// Whether another tab has this conversation open.
function isTaken(id) {
  return new Promise((tell) => {
    const listen = ({ data }) => data.taken === id && tell(true);
    channel.addEventListener("message", listen);
    channel.postMessage({ wanted: id });
    setTimeout(() => {
      channel.removeEventListener("message", listen);
      tell(false);
    }, 200);
  });
}

// The conversation of this tab: the one that it had, or the last one of this browser; a new one if another tab has it.
export async function ownConversation() {
  const wanted = recall("deck-conversation");
  return takeConversation(wanted && !(await isTaken(wanted)) ? wanted : newId());
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID() needs a secure context
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function takeConversation(id) {
  conversation = id;
  remember("deck-conversation", id);
  return id;
}

// Other tabs of this browser that show the same conversation look at it again.
export const tellTabs = (id) => channel.postMessage({ changed: id });
export function onTabs(listener) {
  channel.addEventListener("message", ({ data }) => data.changed && data.changed === conversation && listener());
}
