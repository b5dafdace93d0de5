// The page's script: connects Gradio's components (through window.deck) with the app's REST interface.
import { actions, startChat } from "./chat.js";
import { startCompare } from "./compare.js";
import { startBar } from "./conversation_bar.js";
import { startList } from "./conversation_list.js";
import { form, startForm } from "./form.js";
import { startGpus } from "./gpus.js";
import { pick, startHeader } from "./header.js";
import { t, translateStatic } from "./i18n.js";
import { startPresets } from "./presets.js";
import { startServers } from "./servers.js";
import { run, subscribe } from "./state.js";

Object.assign(window.deck, { pick, chat: actions, form });

// Gradio builds the page after this script has loaded: wait for its last part.
function whenBuilt(then) {
  if (document.getElementById("deck-live") && document.getElementById("chat-pane")) return then();
  const observer = new MutationObserver(() => {
    if (!document.getElementById("deck-live") || !document.getElementById("chat-pane")) return;
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
  await run();
  startForm();
});
