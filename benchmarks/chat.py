"""How fast chats are by the page's own path, beside a plain client of the engine and beside other ways, in one run.

    python -m benchmarks.chat                                     # in front of benchmarks/fake_engine.py
    python -m benchmarks.chat --real NAME [--models-dir DIR]      # a real vLLM, which the app starts: a model's name …
    python -m benchmarks.chat --real DIR --levels 1,32,128        # … or a folder with its weights
    python -m benchmarks.chat --browser                           # and what is seen in Chromium
    python -m benchmarks.chat --draw docs/benchmarks/chat.json    # writes the page and the chart anew

In each round every way has its turn, in another order each time, so that all of them meet the same noise. All chats of
a round begin at once, each with a prompt of its own. The clients are a process of their own. vllm-playground takes part
with ``--playground PYTHON``, the interpreter of an environment of its own:

    python -m venv playground && playground/bin/pip install vllm-playground
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import chat_browser, chat_report, chat_stop
from benchmarks.app_start import free_port
from benchmarks.chat_report import Figures, Row
from benchmarks.gateway import IDLE_S, Setup, Target, accepts, idle_share, load, with_fake_engine, with_vllm
from benchmarks.gpu_walk import post
from benchmarks.load_generator import APP
from benchmarks.machine import RESULTS, write_page, write_results
from benchmarks.naive_chat import naive_chat
from benchmarks.server_stop import wait_for

RATES = "1:520,32:9500,128:29000"
FIRST_TOKEN_MS = "1:15,32:80,128:200"
"""Both as one H100 has them with Qwen2-0.5B."""
_WARM_TOKENS = 32
_TURN = 100
_TURN_CHATS = 16
_TURN_TOKENS = 1024
_ANSWER_S = chat_browser.TOKENS / chat_browser.TOKENS_PER_SECOND


@dataclass(frozen=True)
class Variant:
    """One way from a client to the engine."""

    name: str
    way: str
    """In the load generator's words."""
    target: Target
    pid: int | None = None
    """Of the process whose processor time counts; direct has nobody in between."""


def one_round(variant: Variant, chats: int, tokens: int, idle: float, turns: int = 0) -> Row:
    """A row of results. Raises ``CalledProcessError`` where an answer was not whole."""
    more = ["--way", variant.way, "--turns", str(turns)]
    if variant.pid:
        more += ["--watch", f"{APP}={variant.pid}"]
    found = load(variant.target, chats, tokens, *more)
    found["first_tokens_s"] = [round(seconds, 5) for seconds in found["first_tokens_s"]]
    return {"variant": variant.name, "chats": chats, "idle_share": idle, **found}


def measure(variants: Sequence[Variant], levels: Sequence[int], args: argparse.Namespace) -> list[Row]:
    """Every round; before the first of a level each way has one that does not count."""
    idle = {one.name: idle_share(one.pid, args.idle_seconds) if one.pid else 0.0 for one in variants}
    print("of a core when idle:", json.dumps(idle), flush=True)
    found: list[Row] = []
    for chats in levels:
        for one in variants:
            one_round(one, chats, _WARM_TOKENS, 0.0)
        for number in range(args.rounds):
            ways = [one for one in variants if one.name != "naive" or number < args.slow_rounds]
            for one in ways[number % len(ways) :] + ways[: number % len(ways)]:
                row = {"round": number, **one_round(one, chats, args.tokens, idle[one.name])}
                found.append(row)
                shown = {key: value for key, value in row.items() if key != "first_tokens_s"}
                print(json.dumps(shown), flush=True)
    return found


def measure_turns(page: Variant, args: argparse.Namespace) -> list[Row]:
    """The page's path on the first turn of new conversations and on a late one, in turns."""
    assert page.pid is not None
    idle = idle_share(page.pid, args.idle_seconds) if args.turn_rounds else 0.0
    found: list[Row] = []
    for number in range(args.turn_rounds):
        for turn in (1, _TURN) if number % 2 else (_TURN, 1):
            row = {"round": number, "turn": turn, **one_round(page, _TURN_CHATS, args.turn_tokens, idle, turn - 1)}
            del row["first_tokens_s"]
            found.append(row)
            print(json.dumps(row), flush=True)
    return found


@contextmanager
def playground(python: str, engine: Target) -> Iterator[Variant]:
    """vllm-playground as a process, connected to the engine as its page would be."""
    port = free_port()
    code = f"from vllm_playground.app import main; main('127.0.0.1', {port})"
    with tempfile.TemporaryDirectory(prefix="p-") as home:
        # It logs every prompt and answer, and keeps what it knows in its user's home.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([python, "-c", code], cwd=home, env={**os.environ, "HOME": home}, **quiet)
        try:
            wait_for(lambda: accepts(port) or process.poll() is not None, "vllm-playground")
            url = f"http://127.0.0.1:{port}"
            remote = {"run_mode": "remote", "remote_url": engine.url, "remote_api_key": engine.key or None}
            post(f"{url}/api/start", {"model": engine.model, **remote})
            yield Variant("playground", "playground", Target(url, engine.model), process.pid)
        finally:
            process.terminate()
            process.wait(30)


def playground_python(given: str | None) -> str | None:
    """The interpreter to run it with, or ``None`` where it is not installed."""
    if given:
        return str(Path(given).absolute())  # not resolved: an environment's interpreter is a link
    return sys.executable if importlib.util.find_spec("vllm_playground") else None


@contextmanager
def with_weights(folder: Path) -> Iterator[Setup]:
    """The app with a model that is a folder of weights."""
    with tempfile.TemporaryDirectory(prefix="m-") as models:
        file = Path(models, f"{folder.name}.yaml")
        file.write_text(f"model: {folder.absolute()}\nserved-model-name: {folder.name}\n", encoding="utf-8")
        with with_vllm(models, folder.name, {}) as setup:
            yield setup


def setting(args: argparse.Namespace) -> Any:
    """The app in front of its engine, to be entered."""
    if not args.real:
        return with_fake_engine({"rates": args.rates, "first_token_ms": args.first_token_ms}, {})
    if Path(args.real, "config.json").is_file():
        return with_weights(Path(args.real))
    return with_vllm(args.models_dir, args.real, {})


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything but the browser."""
    results: dict[str, Any] = {"tokens": args.tokens, "load_average_before": os.getloadavg()}
    with ExitStack() as stack:
        setup = stack.enter_context(setting(args))
        engine = setup.targets["direct"]
        page = Variant("page", "page", setup.targets["gateway"], setup.processes["app"])
        variants = [Variant("direct", "openai", engine), page]
        results["setup"] = setup.about
        if args.slow_rounds:
            url, pid = stack.enter_context(naive_chat(engine.url, engine.model, engine.key, args.tokens))
            variants.append(Variant("naive", "gradio", Target(url, engine.model), pid))
        if python := playground_python(args.playground):
            variants.append(stack.enter_context(playground(python, engine)))
        results["rounds"] = measure(variants, args.levels, args)
        results["turns"] = measure_turns(page, args)
    if args.browser:
        seen = chat_browser.measure(args.browser_rounds, 50, min(1, args.slow_rounds))
        results["browser"] = [asdict(one) for one in seen]
        results["stops"] = [asdict(one) for one in chat_stop.measure(args.browser_rounds, 50)]
    results["load_average_after"] = os.getloadavg()
    return results


def report(results: dict[str, Any], name: str) -> tuple[str, list[Figures]]:
    """The page's Markdown without the machine and the command, and the figures of the chart."""
    figures = chat_report.summarise(results["rounds"])
    turns = chat_report.turn_cost(results["turns"])
    seen = [chat_browser.Seen(**one) for one in results.get("browser", [])]
    entries = chat_browser.medians(seen)
    about = results["setup"]
    engine = "vLLM" if about["engine"] == "vllm" else "the fake engine"
    lines = [
        f"# Chats by the page's own path, beside other ways to {engine}",
        "",
        f"![ratio to direct, first token, processor time]({name}.png)",
        "",
        f"Answers of {results['tokens']} tokens, all chats of a round at once, every way in each round"
        f" ({_rounds_of(figures)}). tok/s of all chats together and its ratio to direct in the same round: medians."
        " First tokens: of all chats of all rounds, from the question to the first text at the client. Largest gap:"
        " between two pieces of one chat's text, the largest of a round; median, and the worst round.",
        "",
        *chat_report.table(figures),
        "",
    ]
    present = {one.variant for one in figures}
    if "playground" not in present:
        lines += ["vllm-playground is not installed here (`--playground PYTHON`), so it took no part.", ""]
    stops = chat_stop.goals([chat_stop.Stopped(**one) for one in results.get("stops", [])])
    lines += chat_report.goal_lines([*chat_report.goals(figures, turns), *chat_browser.goals(entries), *stops])
    if turns is not None:
        lines += [
            "",
            f"While {results['turns'][0]['chats']} chats stream, the app spends {turns['first_us']:.0f} us on a frame"
            f" with its tokens on turn 1, and {turns['late_us']:.0f} us on turn {turns['turn']:.0f}.",
        ]
    if entries:
        lines += [
            "",
            f"In Chromium, an answer of {chat_browser.TOKENS:,} tokens of Markdown at"
            f" {chat_browser.TOKENS_PER_SECOND} a second, which takes {_ANSWER_S:.0f} s; medians. In brackets what the"
            " main thread really ran on a processor:",
            "",
            *chat_browser.table(entries),
        ]
    return "\n".join([*lines, "", *noise(results, figures)]), figures


def _rounds_of(figures: Sequence[Figures]) -> str:
    counts = {one.variant: one.rounds for one in figures}
    most = max(counts.values())
    less = [f"{name} {count}" for name, count in counts.items() if count < most]
    return ", ".join([f"{most} rounds", *less])


def noise(results: dict[str, Any], figures: Sequence[Figures]) -> list[str]:
    """What to think of the figures."""
    before, after = results["load_average_before"][0], results["load_average_after"][0]
    clients = max(one.generator_cpu_share for one in figures)
    text = (
        f"Engine, clients and app share the machine with whatever else runs: load average {before:.1f} before and"
        f" {after:.1f} after. Only ratios within this run mean something. The clients used {clients:.0%} of a core at"
        " most."
    )
    if min(before, after) > (cores := results.get("machine", {}).get("cores") or os.cpu_count() or 1):
        text += (
            f" All the time more wanted to run than the {cores} cores could take: each process waited for its turn, the"
            " more of them a way has the longer. Ratios, first tokens and gaps are better on a quiet machine; processor"
            " times less so."
        )
    most = max((one for one in figures if one.variant == "direct"), key=lambda one: one.chats)
    text += (
        f" With {most.chats} chats direct came in {most.chunks_per_token:.2f} pieces for each token: below 1 the"
        " writing of the engine fell behind, or it sends several tokens at once."
    )
    return [text]


def levels(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--real", help="a model of the catalogue, or a folder of weights; without it the fake engine")
    parser.add_argument("--models-dir", default="")
    parser.add_argument("--levels", type=levels, default=[1, 8, 32, 128], help="chats at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=2, help="rounds of the naive page; 0 leaves it out")
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--turn-rounds", type=int, default=3)
    parser.add_argument("--turn-tokens", type=int, default=_TURN_TOKENS)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_S, help="how long an idle app is watched")
    parser.add_argument("--rates", default=RATES, help="of the fake engine: tokens per second by open answers")
    parser.add_argument("--first-token-ms", default=FIRST_TOKEN_MS, help="of the fake engine, by open answers")
    parser.add_argument("--playground", metavar="PYTHON", help="of an environment with vllm-playground")
    parser.add_argument("--browser", action="store_true", help="also measure in Chromium, over the fake engine")
    parser.add_argument("--browser-rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for NAME.json, NAME.md and NAME.png")
    parser.add_argument("--name", default="chat")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="only write page and chart of these results anew")
    return parser.parse_args(argv)


def command_of(argv: Sequence[str]) -> str:
    """The command as another machine can repeat it: where things lie here is nobody's concern."""
    words = ["python", "-m", "benchmarks.chat"]
    for before, word in zip(("", *argv), argv, strict=False):
        words.append(Path(word).name if before in ("--real", "--models-dir", "--playground", "--out") else word)
    return " ".join(words)


def draw(figures: Sequence[Figures], path: Path) -> None:
    """The chart, where matplotlib is there; on another machine ``--draw`` does it later."""
    try:
        chat_report.draw(figures, path)
    except ImportError:
        print(f"no chart: matplotlib is not installed (make setup); later: --draw {path.with_suffix('.json')}")


def main(argv: Sequence[str] = sys.argv[1:]) -> None:
    args = parse_arguments(argv)
    if args.draw:
        results = json.loads(args.draw.read_text(encoding="utf-8"))
        summary, figures = report(results, args.draw.stem)
        write_page(args.draw.stem, results, summary, args.draw.parent)
        draw(figures, args.draw.with_suffix(".png"))
        return
    results = run(args)
    summary, figures = report(results, args.name)
    results["figures"] = [asdict(one) for one in figures]
    write_results(args.name, results, command_of(argv), summary, args.out, indent=None)
    draw(figures, args.out / f"{args.name}.png")


if __name__ == "__main__":
    main()
