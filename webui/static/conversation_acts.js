// What is done to a kept conversation, from its bar and from the list alike.
import { call } from "./api.js";
import { conversationPath, currentConversation, newChat, reload } from "./conversation.js";
import { confirmed } from "./dialog.js";
import { t } from "./i18n.js";

const listeners = new Set();

// `listener` is called when titles have changed, or conversations are gone.
export const onActs = (listener) => listeners.add(listener);
const tell = () => listeners.forEach((listener) => listener());

export const shownTitle = ({ title, turns }) => title || turns[0]?.user.trim().split("\n")[0] || t("new_chat");

export async function rename(id, title) {
  await call("PATCH", conversationPath(id), { title });
  if (id === currentConversation().id) await reload();
  tell();
}

// Asks first.
export async function remove({ id, title }) {
  if (!(await confirmed(t("delete_conversation", { title }), t("delete_for_good"), t("delete_info")))) return;
  await call("DELETE", conversationPath(id));
  if (id === currentConversation().id) newChat();
  tell();
}

export async function removeAll() {
  if (!(await confirmed(t("delete_all_question"), t("delete_for_good"), t("delete_info")))) return;
  await call("DELETE", "/api/conversations");
  newChat();
  tell();
}

// A field in the place of a title: Enter and leaving it keep what was typed, Escape does not.
export function titleKeys(before, over) {
  let isOver = false;
  const end = (event, keep) => {
    if (isOver) return; // it is left once more when it is taken away
    isOver = true;
    const title = event.target.value.trim();
    over(keep && title !== before ? title : "");
  };
  return {
    onBlur: (event) => end(event, true),
    onKey(event) {
      event.stopPropagation(); // neither does Escape stop the answer, nor do arrows leave the field
      if (event.isComposing || event.keyCode === 229 || !["Enter", "Escape"].includes(event.key)) return;
      event.preventDefault(); // else Enter presses the button that gets the focus, and Escape leaves the list
      end(event, event.key === "Enter");
    },
  };
}
