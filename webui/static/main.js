// The page's script: connects Gradio's components (through window.deck) with the app's REST interface.
import { actions, startChat } from "./chat.js";
import { startCompare } from "./compare.js";
import { startBar } from "./conversation_bar.js";
import { startList } from "./conversation_list.js";
import { form, startForm } from "./form.js";
import { startGpus } from "./gpus.js";
import { pick, startHeader } from "./header.js";
import { t, translateStatic } from "./i18n.js";
import { startLoadTests } from "./load_test.js";
import { startPresets } from "./presets.js";
import { startServers } from "./servers.js";
import { run, subscribe } from "./state.js";

Object.assign(window.deck, { pick, chat: actions, form });

const PARTS = ["deck-live", "conversation-bar", "conversation", "turns", "live", "chat-status", "chat-to-end", "chat-text"];

// Gradio builds the page after this script has loaded, part by part: wait for those that are looked for once.
function whenBuilt(then) {
  const isBuilt = () => PARTS.every((id) => document.getElementById(id));
  if (isBuilt()) return then();
  const observer = new MutationObserver(() => {
    if (!isBuilt()) return;
    observer.disconnect();
    then();
  });
  observer.observe(document.documentElement, { childList: true, subtree: true });
}

// Gradio mounts its parts one by one, some only when they are opened: each gets its texts as soon as it is there.
function addTexts() {
  translateStatic();
  // What a parameter does stands in its tooltip: under each slider it would be most of the column.
  for (const element of document.querySelectorAll("[id^=sampling-]:not([title], #sampling-reset)"))
    element.title = t(element.id.replace("-", "_"));
}

whenBuilt(async () => {
  subscribe(addTexts);
  startHeader();
  startBar();
  startList();
  startPresets();
  startChat();
  startCompare();
  startServers();
  startGpus();
  startLoadTests();
  await run();
  startForm();
});
