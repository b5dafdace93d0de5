"""What a person sees, in real Chromium: our page and a naive ``gr.ChatInterface`` over the same engine, in turns.

    python -m benchmarks.chat_browser [--rounds 3] [--turns 50] [--json FILE] [--traces FOLDER]

A question is typed and sent with Enter. Until the first text of its answer is painted counts what the engine took for
its first token as not ours. Then an answer of 2,000 tokens of Markdown comes at 400 tokens a second; Chromium's own
trace says how long the page's main thread was busy from the first to the last of it, and what with. "Processor" is the
time that the thread really ran: on a machine that others use too it is less than the time that passes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.app_start import ROOT
from benchmarks.gateway import app, fake_engine
from benchmarks.gpu_walk import post
from benchmarks.naive_chat import naive_chat
from benchmarks.server_stop import ask

TOKENS_PER_SECOND = 400
TOKENS = 2000
_TURN_TOKENS = 60
_FIRST_TOKEN_MS = 20
ENGINE_OPTIONS = (
    *("--rates", f"1:{TOKENS_PER_SECOND}", "--first-token-ms", str(_FIRST_TOKEN_MS)),
    *("--text", str(ROOT / "benchmarks" / "answer.md")),
)
_PATIENCE_MS = 45_000
"""A page that has not shown the whole answer by then is measured up to there."""
_CATEGORIES = ["toplevel", "blink.user_timing", "devtools.timeline"]
_WATCH = """
window.bench = {
  keyAt: null, firstAt: null, paintedAt: null, endAt: null,
  // Notes the key, and the moments when `first` and `end` stand on the page.
  expect(first, end) {
    Object.assign(this, { keyAt: null, firstAt: null, paintedAt: null, endAt: null });
    const holds = (mutation, text) => mutation.type === "characterData"
      ? mutation.target.data.includes(text)
      : [...mutation.addedNodes].some((node) => node.textContent.includes(text));
    const observer = new MutationObserver((mutations) => {
      if (this.firstAt === null && mutations.some((mutation) => holds(mutation, first))) {
        this.firstAt = performance.now();
        performance.mark("bench-first");
        requestAnimationFrame(() => {
          const { port1, port2 } = new MessageChannel();
          port1.onmessage = () => (this.paintedAt = performance.now());
          port2.postMessage(null);
        });
      }
      if (this.firstAt !== null && mutations.some((mutation) => holds(mutation, end))) {
        this.endAt = performance.now();
        performance.mark("bench-end");
        observer.disconnect();
      }
    });
    observer.observe(document, { subtree: true, childList: true, characterData: true });
  },
};
addEventListener("keydown", (event) => {
  if (event.key === "Enter") window.bench.keyAt ??= event.timeStamp;
}, true);
"""


@dataclass(frozen=True)
class Seen:
    """One answer on one page."""

    page: str
    turns: int
    """That stood on the page before."""
    first_text_ms: float
    """From Enter until it stands in the document, less the engine's own time."""
    painted_ms: float
    """The same until it is painted."""
    finished: bool
    """Whether the whole answer stood on the page before the patience was over."""
    answer_s: float
    """From its first text to its last; the engine needs ``TOKENS / TOKENS_PER_SECOND``."""
    busy: float
    """Share of that time in which the main thread had a task."""
    busy_cpu: float
    """Share in which it ran on a processor."""
    longest_task_ms: float
    longest_task_cpu_ms: float
    """Processor time of the task that took the most of it."""
    tasks_over_50_ms: int
    spent_ms: dict[str, float]
    """Of the main thread, by what it did, without what that called; the largest few."""


def read_trace(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of the main thread between the marks ``bench-first`` and ``bench-end``. Raises ``ValueError``."""
    marks = {event["name"]: event for event in events if event["name"] in ("bench-first", "bench-end")}
    if len(marks) < 2:
        raise ValueError("the trace has no marks")
    first, end = marks["bench-first"], marks["bench-end"]
    mine = [
        event
        for event in events
        if (event.get("pid"), event.get("tid")) == (first["pid"], first["tid"])
        and event.get("ph") == "X"
        and event["ts"] < end["ts"]
        and event["ts"] + event.get("dur", 0) > first["ts"]
    ]
    tasks = _outermost([event for event in mine if event["name"].endswith("RunTask")])
    window = end["ts"] - first["ts"]
    return {
        "busy": sum(event["dur"] for event in tasks) / window,
        "busy_cpu": sum(event.get("tdur", 0) for event in tasks) / window,
        "longest_task_ms": max((event["dur"] for event in tasks), default=0) / 1000,
        "longest_task_cpu_ms": max((event.get("tdur", 0) for event in tasks), default=0) / 1000,
        "tasks_over_50_ms": sum(event["dur"] > 50_000 for event in tasks),
        "spent_ms": dict(_own_time(mine).most_common(12)),
    }


def _outermost(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for event in sorted(events, key=lambda one: (one["ts"], -one["dur"])):
        if not found or event["ts"] >= found[-1]["ts"] + found[-1]["dur"]:
            found.append(event)
    return found


def _own_time(events: Sequence[dict[str, Any]]) -> Counter[str]:
    """Milliseconds by name, each without the events inside it."""
    spent: Counter[str] = Counter()
    around: list[dict[str, Any]] = []
    for event in sorted(events, key=lambda one: (one["ts"], -one.get("dur", 0))):
        while around and event["ts"] >= around[-1]["ts"] + around[-1].get("dur", 0):
            around.pop()
        took = event.get("dur", 0) / 1000
        if around:
            spent[around[-1]["name"]] -= took
        spent[event["name"]] += took
        around.append(event)
    return Counter({name: round(ms, 1) for name, ms in spent.items()})


def talk(url: str, conversation: str, turns: int) -> None:
    """Fills a conversation of our app."""
    for turn in range(turns):
        body = {
            "conversation": conversation,
            "model": "fake",
            "text": f"Turn {turn}",
            "sampling": {"max_tokens": _TURN_TOKENS},
        }
        last = json.loads(post(f"{url}/api/chat", body).splitlines()[-1])
        if last["type"] != "done":
            raise RuntimeError(f"no whole answer: {last}")


@contextmanager
def opened_deck(browser: Any, url: str, turns: int, script: str, tokens: int = TOKENS) -> Iterator[Any]:
    """Our page with so many turns on it, ready for an answer of ``tokens``; ``script`` watches it."""
    from browser.deck_page import DeckPage  # noqa: PLC0415  # of the tests

    conversation = f"bench{time.time_ns()}"
    talk(url, conversation, turns)
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
    context.add_init_script(script)
    context.add_init_script(f"sessionStorage.setItem('deck-conversation', '{conversation}')")
    deck = DeckPage.open(browser, url, model="fake", context=context)
    try:
        deck.page.wait_for_function("n => document.querySelectorAll('.message.user').length === n", arg=turns)
        deck.set_slider("max_tokens", tokens)
        yield deck
    finally:
        deck.close()


class Screen:
    """Chromium, and the engine that knows when it sent what."""

    def __init__(self, browser: Any, engine: str, traces: Path | None = None) -> None:
        self._browser = browser
        self._traces = traces
        self._engine = engine

    def deck(self, url: str, turns: int) -> Seen:
        """Our page, with a conversation of its own."""
        with opened_deck(self._browser, url, turns, _WATCH) as deck:
            return self._ask(deck.page, deck.text, "page", turns)

    def naive(self, url: str, turns: int) -> Seen:
        """The other page."""
        context = self._browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
        context.add_init_script(_WATCH)
        page = context.new_page()
        try:
            page.goto(url)
            box = page.locator("textarea").first
            box.wait_for()
            page.wait_for_function("n => document.querySelectorAll('.message.user').length === n", arg=turns)
            return self._ask(page, box, "naive", turns)
        finally:
            context.close()

    def _ask(self, page: Any, box: Any, name: str, turns: int) -> Seen:
        number = int(ask(f"{self._engine}/answers")["count"]) + 1
        page.wait_for_timeout(1500)  # until it is quiet
        page.evaluate("([first, end]) => window.bench.expect(first, end)", [f"Answer {number}.", f"End {number}."])
        box.fill(f"Question {number}")
        self._browser.start_tracing(page=page, categories=_CATEGORIES)
        page.wait_for_timeout(300)
        box.press("Enter")
        finished = self._wait_for_end(page)
        noted = page.evaluate("() => ({...window.bench})")
        trace = json.loads(self._browser.stop_tracing())
        if self._traces:
            (self._traces / f"{name}-{turns}.json").write_text(json.dumps(trace), encoding="utf-8")
        engine_ms = ask(f"{self._engine}/answers")["first_token_s"] * 1000
        return Seen(
            page=name,
            turns=turns,
            first_text_ms=noted["firstAt"] - noted["keyAt"] - engine_ms,
            painted_ms=noted["paintedAt"] - noted["keyAt"] - engine_ms,
            finished=finished,
            answer_s=(noted["endAt"] - noted["firstAt"]) / 1000,
            **read_trace(trace["traceEvents"]),
        )

    @staticmethod
    def _wait_for_end(page: Any) -> bool:
        """Whether the end of the answer came; where it does not, the measuring ends here."""
        from playwright.sync_api import TimeoutError as TooLate  # noqa: PLC0415

        page.wait_for_function("() => window.bench.firstAt !== null", timeout=_PATIENCE_MS)
        try:
            page.wait_for_function("() => window.bench.endAt !== null", timeout=_PATIENCE_MS)
        except TooLate:
            page.evaluate("() => { window.bench.endAt = performance.now(); performance.mark('bench-end'); }")
            return False
        return True


@contextmanager
def chromium() -> Iterator[Any]:
    """As the browser tests have it. Raises ``ImportError`` where the tools for tests are not installed."""
    sys.path[:0] = [str(ROOT / "tests")]
    from browser.chromium import launch_chromium  # noqa: PLC0415
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        found = launch_chromium(playwright)
        yield found
        found.close()


def measure(rounds: int, turns: int, naive_rounds: int, traces: Path | None = None) -> list[Seen]:
    """Each round both pages, without earlier turns and with ``turns`` of them; the naive one in the first rounds.

    The last trace of each kind is kept in the folder ``traces``, for Chromium's own tools.
    """
    found: list[Seen] = []
    with ExitStack() as stack:
        engine, _ = stack.enter_context(fake_engine(*ENGINE_OPTIONS))
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="g-"))
        url, _ = stack.enter_context(app(state, "--attach", f"fake={engine}"))
        naive = {}
        for count in (0, turns) if naive_rounds else ():
            page = naive_chat(engine, "fake", "", TOKENS, count, _TURN_TOKENS)
            naive[count] = stack.enter_context(page)[0]
        screen = Screen(stack.enter_context(chromium()), engine, traces)
        screen.deck(url, 0)  # Chromium's first page, which does not count
        for number in range(rounds):
            for count in (0, turns):
                both = [screen.deck(url, count)]
                if number < naive_rounds:
                    both.append(screen.naive(naive[count], count))
                for seen in both:
                    print(json.dumps(asdict(seen)), flush=True)
                found += both
    return found


def medians(found: Sequence[Seen]) -> list[dict[str, Any]]:
    """One entry for each page and number of turns."""
    entries = []
    for page, turns in dict.fromkeys((seen.page, seen.turns) for seen in found):
        some = [seen for seen in found if (seen.page, seen.turns) == (page, turns)]
        names = [name for name, kind in Seen.__annotations__.items() if kind in ("float", "int") and name != "turns"]
        entry = {name: statistics.median(getattr(seen, name) for seen in some) for name in names}
        finished = all(seen.finished for seen in some)
        entry |= {"finished": finished, "spent_ms": some[-1].spent_ms}
        entries.append({"page": page, "turns": turns, "rounds": len(some), **entry})
    return entries


def table(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| page | turns before | Enter to first text painted, less the engine's time, ms | answer took, s "
        "| main thread busy (processor) | longest task, ms (processor) | tasks over 50 ms |",
        "|---|---|---|---|---|---|---|",
    ]
    names = {"page": "**vLLM Deck**", "naive": "`gr.ChatInterface`"}
    for entry in entries:
        more = "" if entry["finished"] else "more than "
        lines.append(
            f"| {names[entry['page']]} | {entry['turns']} | {entry['painted_ms']:.0f} | {more}{entry['answer_s']:.2f} "
            f"| {entry['busy']:.0%} ({entry['busy_cpu']:.0%}) "
            f"| {entry['longest_task_ms']:.0f} ({entry['longest_task_cpu_ms']:.0f}) "
            f"| {entry['tasks_over_50_ms']:.0f} |"
        )
    return lines


def goals(entries: Sequence[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    """Each goal: what it is, what was found, whether it is reached."""
    found = []
    for entry in entries:
        if entry["page"] != "page":
            continue
        turns = f"after {entry['turns']} turns"
        painted, busy, longest = entry["painted_ms"], entry["busy"], entry["longest_task_ms"]
        found.append((f"Chromium, {turns}: first text at most 60 ms later", f"{painted:.0f} ms", painted <= 60))
        if entry["turns"]:
            text = f"{busy:.0%} ({entry['busy_cpu']:.0%} on a processor)"
            found.append((f"Chromium, {turns}: main thread under 25 % busy", text, busy < 0.25))
            text = f"{longest:.0f} ms ({entry['longest_task_cpu_ms']:.0f} on a processor)"
            found.append((f"Chromium, {turns}: never blocked for over 50 ms", text, longest <= 50))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--naive-rounds", type=int, default=1, help="rounds in which the naive page is measured too")
    parser.add_argument("--traces", type=Path, help="a folder in which to keep the last trace of each kind")
    parser.add_argument("--json", type=Path, help="write every answer's figures there")
    args = parser.parse_args()
    found = measure(args.rounds, args.turns, args.naive_rounds, args.traces)
    if args.json:
        args.json.write_text(json.dumps([asdict(seen) for seen in found], indent=2) + "\n", encoding="utf-8")
    entries = medians(found)
    print("\n".join([*table(entries), "", *(f"{what}: {text}" for what, text, _ in goals(entries))]))


if __name__ == "__main__":
    main()
