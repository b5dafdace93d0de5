"""The arguments of ``python app.py bench``, and the load test's settings that they make."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server_manager.load_test.settings import PRESETS

_EPILOG = """\
Where an app is running with this --state-dir, it does the work and its page shows it; else the parts that are needed
are started here, without the page, and ended again. Every model is loaded or woken, warmed up, measured at each level
with `vllm bench serve`, and put away; one that was up before stays up.

Written into DIR: run.json (everything), run.csv, run.md, run.png and run-dark.png.
Exit code: 0; 1 where a model failed or no request was completed; 130 after Ctrl+C, 143 after SIGTERM.

example: python app.py bench Qwen2-0.5B-Instruct Qwen2-7B-Instruct --concurrency 1,8,32 --out results
"""


def add_bench(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    """Adds the command to the others (``commands`` is what ``add_subparsers`` returns)."""
    bench = commands.add_parser(
        "bench",
        help="measure models one after the other under load (model ladder)",
        description="Measure models one after the other under load.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=parents,
    )
    bench.add_argument("names", nargs="+", metavar="NAME", help="models, in this order")
    bench.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for the results")
    bench.add_argument("--preset", choices=tuple(PRESETS), default="chat", help="what is asked (default: %(default)s)")
    load = bench.add_mutually_exclusive_group()
    load.add_argument(
        "--concurrency", type=_whole_numbers, metavar="N,N,…", help="requests at a time, a level for each"
    )
    load.add_argument(
        "--request-rate", type=_rates, metavar="R,R,…", help="or requests per second; inf: all at once", dest="rates"
    )
    bench.add_argument("--input-len", type=int, metavar="TOKENS", help="of random prompts")
    bench.add_argument("--output-len", type=int, metavar="TOKENS", help="of answers")
    bench.add_argument("--num-prompts", type=int, metavar="N", help="requests per level, at least (2 × concurrency)")
    bench.add_argument("--num-warmups", type=int, metavar="N", help="requests before each level that do not count")
    bench.add_argument("--dataset", choices=("random", "sharegpt", "custom"), help="where prompts come from")
    bench.add_argument("--dataset-path", metavar="FILE", help="of sharegpt and custom")
    bench.add_argument("--api", choices=("chat", "completions"), help="which route is asked")
    bench.add_argument("--goodput", type=_limits, metavar="ttft:MS,tpot:MS,e2el:MS", help="count requests within these")
    bench.add_argument("--tokenizer", metavar="FOLDER", help="where the server's own cannot be found")
    bench.add_argument("--seed", type=int, metavar="N", help="of prompts (default: a new one each time)")
    bench.add_argument("--extra", metavar="FLAGS", help="more flags of `vllm bench serve`, as one word: --extra='…'")
    bench.add_argument("--name", default="", metavar="TEXT", help="what the run is called", dest="run_name")


def bench_settings(args: argparse.Namespace) -> dict[str, Any]:
    """As ``POST /api/load-tests`` takes them: only what was given."""
    fields = (
        "input_len", "output_len", "num_prompts", "num_warmups", "dataset", "dataset_path", "api", "goodput",
        "tokenizer", "seed", "extra", "concurrency",
    )  # fmt: skip
    given = {name: value for name in fields if (value := getattr(args, name)) is not None}
    if args.rates is not None:
        given["request_rates"] = args.rates
    if path := given.get("dataset_path"):
        given["dataset_path"] = str(Path(path).expanduser().absolute())  # the app has a folder of its own
    return {"preset": args.preset, **given}


def _whole_numbers(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, for example 1,8,32")
    return [int(word) for word in words]


def _rates(text: str) -> list[float | str]:
    try:
        found = ["inf" if word.strip() == "inf" else float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        found = []
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, for example 1,4,inf")
    return found


def _limits(text: str) -> dict[str, float]:
    try:
        return {name.strip(): float(value) for name, value in (part.split(":", 1) for part in text.split(","))}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of limits, for example ttft:500,tpot:50") from error
