// One model of a comparison: a conversation of its own, which is not kept, and what is shown of it.
import { get, modelPath } from "./api.js";
import { startAsk, stopAsk, thinkingSeconds, turnOf } from "./ask.js";
import { t } from "./i18n.js";
import { followEnd } from "./scroll.js";
import { untilReady } from "./switching.js";
import { newId } from "./tab.js";
import { message, thoughtTitle } from "./turns.js";

const ends = new Map(); // by place: moves the view to the end

function messagesOf(turn) {
  const found = [message("user", turn.user)];
  if (turn.reasoning) found.push(message("assistant", turn.reasoning, { title: thoughtTitle(turn), status: "done" }));
  if (turn.assistant) found.push(message("assistant", turn.assistant));
  return found;
}

// What stands below the finished turns while an answer is being made.
function liveText(ask) {
  if (ask.content) return ask.content;
  if (ask.reasoning) return `*${t("thinking_for", { s: thinkingSeconds(ask).toFixed(1) })}*`;
  return ask.progress ? `*${untilReady(ask.progress.status, ask.progress.waited_s)}*` : "…";
}

export class Column {
  constructor(place) {
    this.place = place; // its number on the page
    this.model = null;
    this.empty();
  }

  empty() {
    Object.assign(this, { conversation: newId(), turns: [], ask: null, pending: null, unanswered: null, failed: null, stopped: false });
  }

  get busy() {
    return this.pending != null;
  }

  // Another model, or a new comparison.
  begin(model = this.model) {
    this.stop();
    this.model = model;
    this.empty();
    this.show();
  }

  // Asks after what was said so far, not before the promise `start` is kept. `sampling` null: what the model's authors
  // recommend. `onNews` is called whenever something of it has changed; the promise is kept once something has come back.
  async send({ text, system_prompt, sampling }, onNews, start = null) {
    const { conversation } = this;
    const question = { text, system_prompt };
    Object.assign(this, { pending: text, unanswered: null, failed: null, stopped: false });
    this.show();
    ends.get(this.place)?.();
    onNews();
    try {
      await start;
      question.sampling = sampling ?? (await get(modelPath(this.model))).sampling;
    } catch (error) {
      if (conversation === this.conversation) this.end({ question, content: "", failed: error });
      return onNews();
    }
    if (conversation !== this.conversation) return null; // begun anew meanwhile
    if (this.stopped) return this.end({ question, content: "", stopped: true });
    return new Promise((resolve) => {
      this.ask = startAsk({ conversation, model: this.model, ...question, keep: false }, (ask) => {
        resolve();
        if (conversation !== this.conversation) return;
        if (ask.over) this.end(ask);
        else this.showLive(ask);
        onNews();
      });
    });
  }

  stop() {
    this.stopped = true;
    if (this.ask) stopAsk(this.ask);
  }

  end(ask) {
    const turn = turnOf(ask);
    const unanswered = turn ? null : ask.question.text;
    Object.assign(this, { ask: null, pending: null, unanswered, failed: ask.failed ?? null });
    if (turn) this.turns = [...this.turns, { ...turn, completion_tokens: turn.completion_tokens ?? ask.tokens }];
    this.show();
  }

  // A question that nothing came of stays in sight.
  show() {
    const open = this.pending ?? this.unanswered;
    const shown = this.turns.flatMap(messagesOf);
    if (open != null) shown.push(message("user", open));
    window.deck.set(`compare_${this.place}`, shown, this.busy ? "…" : "");
    this.watchScroll();
  }

  showLive(ask) {
    window.deck.set(`compare_live_${this.place}`, liveText(ask));
  }

  watchScroll() {
    const area = document.getElementById(`compare-scroll-${this.place}`);
    if (area && !ends.has(this.place)) ends.set(this.place, followEnd(area));
  }
}
