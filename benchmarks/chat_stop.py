"""How soon an answer is stopped, in real Chromium: on the page, and for the engine.

    python -m benchmarks.chat_stop [--rounds 5] [--turns 50] [--json FILE]

In the middle of an answer of Markdown at 400 tokens a second Stop is clicked, or Escape pressed. The page counts as
stopped when the Stop button is gone, the answer is marked as stopped among the turns, that is painted, and no text
changes any more. The engine notes when it sees that nobody reads any longer: vLLM ends the request then.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.chat_browser import ENGINE_OPTIONS, chromium, opened_deck
from benchmarks.gateway import app, fake_engine
from benchmarks.server_stop import ask

GOAL_MS = 100
_WAYS = {"click": "the click", "Escape": "Escape"}
_TOKENS = 16_000
"""More than come until it is stopped, also on a slow machine."""
_MIDDLE_MS = 1500
"""Of the answer that have passed when it is stopped."""
_CALM_MS = 1000
"""After which nothing is expected to change any more."""
_WATCH = """
window.bench = {
  stopAt: null, shownAt: null, paintedAt: null, textAt: 0, text: "",
  // Every answer on the page, wherever it stands: moving from the live part into the turns changes nothing.
  read() {
    const texts = [...document.querySelectorAll("#turns .bot-row .md, #live-answer .md")];
    return texts.map((element) => element.textContent).join("").replace(/\\s/g, "");
  },
  isShown() {
    if (document.querySelector("#chat-pane.busy") || !document.querySelector("#turns .turn-note")) return false;
    return !document.getElementById("chat-stop").getClientRects().length;
  },
  look() {
    if (this.stopAt === null) return;
    const now = performance.now();
    const text = this.read();
    if (text !== this.text) Object.assign(this, { text, textAt: now });
    if (this.shownAt !== null || !this.isShown()) return;
    this.shownAt = now;
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => (this.paintedAt = performance.now());
      port2.postMessage(null);
    });
  },
  begin() {
    const what = { subtree: true, childList: true, characterData: true, attributeFilter: ["class", "style"] };
    new MutationObserver(() => this.look()).observe(document.body, what);
  },
  stopped(event) {
    if (this.stopAt !== null) return;
    Object.assign(this, { stopAt: event.timeStamp, text: this.read() });
  },
};
addEventListener("click", (event) => event.target.closest?.("#chat-stop") && window.bench.stopped(event), true);
addEventListener("keydown", (event) => event.key === "Escape" && window.bench.stopped(event), true);
"""


@dataclass(frozen=True)
class Stopped:
    """One answer that was stopped; milliseconds from the click or the key."""

    way: str
    """``click`` or ``Escape``."""
    turns: int
    """That stood on the page before."""
    page_ms: float
    """Until the page shows it, and no text changes any more."""
    engine_ms: float
    """Until the engine sees that its client has gone."""


def stop(browser: Any, url: str, engine: str, turns: int, way: str) -> Stopped:
    """Asks, and stops the answer in its middle. Raises ``RuntimeError`` where it was over by then."""
    with opened_deck(browser, url, turns, _WATCH, _TOKENS) as deck:
        page = deck.page
        deck.send("Tell me a lot")
        deck.wait_for_live_text("Answer")
        page.wait_for_timeout(_MIDDLE_MS)
        page.evaluate("() => window.bench.begin()")
        if way == "click":
            deck.button("stop").click()
        else:
            page.keyboard.press(way)
        page.wait_for_function("() => window.bench.paintedAt !== null")
        page.wait_for_timeout(_CALM_MS)
        noted = page.evaluate("() => ({...window.bench, epoch: performance.timeOrigin})")
    dropped_ms = float(ask(f"{engine}/answers")["dropped_at"]) * 1000
    if dropped_ms < noted["epoch"] + noted["stopAt"]:
        raise RuntimeError("the answer was over before it was stopped")
    return Stopped(
        way=way,
        turns=turns,
        page_ms=max(noted["paintedAt"], noted["textAt"]) - noted["stopAt"],
        engine_ms=dropped_ms - noted["epoch"] - noted["stopAt"],
    )


def measure(rounds: int, turns: int) -> list[Stopped]:
    """Each round both ways, with ``turns`` turns on the page."""
    found: list[Stopped] = []
    with ExitStack() as stack:
        engine, _ = stack.enter_context(fake_engine(*ENGINE_OPTIONS))
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="g-"))
        url, _ = stack.enter_context(app(state, "--attach", f"fake={engine}"))
        browser = stack.enter_context(chromium())
        stop(browser, url, engine, 0, "click")  # Chromium's first page, which does not count
        for _ in range(rounds):
            for way in _WAYS:
                found.append(stop(browser, url, engine, turns, way))
                print(json.dumps(asdict(found[-1])), flush=True)
    return found


def goals(found: Sequence[Stopped]) -> list[tuple[str, str, bool]]:
    """Each goal: what it is, what was found, whether it is reached."""
    entries = []
    for way, turns in dict.fromkeys((one.way, one.turns) for one in found):
        some = [one for one in found if (one.way, one.turns) == (way, turns)]
        page, worst = statistics.median(one.page_ms for one in some), max(one.page_ms for one in some)
        engine = statistics.median(one.engine_ms for one in some)
        what = f"Chromium, after {turns} turns: stopped at most {GOAL_MS} ms after {_WAYS[way]}"
        text = f"{page:.0f} ms (worst {worst:.0f}); the engine knows after {engine:.0f} ms"
        entries.append((what, text, page <= GOAL_MS))
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write every answer's figures there")
    args = parser.parse_args()
    found = measure(args.rounds, args.turns)
    if args.json:
        args.json.write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n", encoding="utf-8")
    for what, text, _ in goals(found):
        print(f"{what}: {text}")


if __name__ == "__main__":
    main()
