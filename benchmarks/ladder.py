"""The product's model ladder, and beside it `vllm bench serve` run by hand with the exact line that the product gives.

    python -m benchmarks.ladder NAME_OR_FOLDER… --concurrency 1,8,32,128 [--rounds N] [--set K=V] [--env K=V] [-- FLAGS]

FLAGS are those of `app.py bench`, which first measures all models as anybody would, by the app that is running; its
files are kept as they are. Then each model is brought up once more (woken, where it can sleep) and each of the lines
that the product gave is run by hand, on the same server. With more rounds the product and the lines by hand take turns:
product, by hand, by hand, product, … Prompts are the same both times, so the models are served without prefix cache.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.app_start import ROOT
from benchmarks.gpu_reliability import App
from benchmarks.gpu_walk import post
from benchmarks.machine import RESULTS, write_results
from server_manager.handle_store import HandleStore
from server_manager.settings import default_vllm_command

GOAL_PERCENT = 3.0
FIGURES = {
    "output_throughput": "output tok/s",
    "request_throughput": "requests/s",
    "mean_ttft_ms": "TTFT mean ms",
    "p50_ttft_ms": "TTFT p50 ms",
    "p99_ttft_ms": "TTFT p99 ms",
    "mean_tpot_ms": "TPOT mean ms",
    "p99_tpot_ms": "TPOT p99 ms",
    "mean_itl_ms": "ITL mean ms",
    "mean_e2el_ms": "E2E mean ms",
    "p99_e2el_ms": "E2E p99 ms",
}


def model_file(model: str, folder: Path, options: dict[str, str], env: list[str]) -> str:
    """Writes the model's files, for a folder or a name of the catalogue; the model's name."""
    path = Path(model)
    if path.is_dir():
        name = path.resolve().name
        text = f"model: {json.dumps(str(path.resolve()))}\nserved-model-name: {json.dumps(name)}\n"
    else:
        name = model
        text = (ROOT / "server_manager" / "catalogue" / f"{name}.yaml").read_text(encoding="utf-8")
    ours = {"enable-prefix-caching": "false", **options}
    kept = [line for line in text.splitlines() if line.partition(":")[0] not in ours]
    text = "\n".join([*kept, *(f"{key}: {value}" for key, value in ours.items())])
    (folder / f"{name}.yaml").write_text(f"{text}\n", encoding="utf-8")
    (folder / f"{name}.env").write_text("".join(f"{pair}\n" for pair in env), encoding="utf-8")
    return name


def bench(state: str, models_dir: str, names: list[str], out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """``app.py bench``: by the app that is running on this state folder, or without one. What it wrote as JSON."""
    argv = [sys.executable, "app.py", "--state-dir", state, "--models-dir", models_dir, "bench", *names]
    argv += ["--out", str(out), "--concurrency", args.concurrency, *args.flags]
    ended = subprocess.run(argv, cwd=ROOT, check=False)
    run: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    if ended.returncode:
        raise RuntimeError(f"app.py bench ended with {ended.returncode}: {run['error']}")
    return run


def by_hand(line: str, key: str, out: Path) -> dict[str, float]:
    """The line in a shell, as it is, with a place for its result added; the figures that vLLM wrote."""
    scripts = str(Path(default_vllm_command()[0]).parent)
    env = {**os.environ, "OPENAI_API_KEY": key, "PATH": f"{scripts}:{os.environ['PATH']}"}
    out.unlink(missing_ok=True)
    whole = f"{line} --result-dir '{out.parent}' --result-filename '{out.name}'"
    subprocess.run(["bash", "-c", whole], env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = json.loads(out.read_text(encoding="utf-8"))
    if found["failed"] or not found["completed"]:
        raise RuntimeError(f"{found['failed']} requests failed: {line}")
    return {name: found[name] for name in FIGURES}


def by_product(run: dict[str, Any], name: str) -> dict[str, Any]:
    """The levels of one model in what the product wrote, by their labels."""
    row = next(row for row in run["rows"] if row["model"] == name)
    return {level["label"]: level for level in row["levels"]}


def compare(
    app: App, bench_once: Callable[[list[str]], dict[str, Any]], ladder: dict[str, Any], number: int, name: str
) -> list[dict[str, Any]]:
    """One round of one model: its levels with the figures of both. Round 0 has the ladder's own as the product's."""
    if app.status(name)["state"] == "asleep":
        post(f"{app.url}/api/servers/{name}/wake", {})
    elif (status := app.start(name))["state"] != "ready":
        raise RuntimeError(f"{name}: {status['exit']}")
    records = HandleStore(Path(app.state_dir) / "servers").load_all()
    key = next(record.api_key for record in records if record.name == name)
    base_url = app.status(name)["base_url"]
    levels = by_product(ladder, name)
    if product_first := number % 2 == 0:
        levels = by_product(bench_once([name]), name) if number else levels
    with tempfile.TemporaryDirectory(prefix="l-") as folder:
        # Where it could not sleep it has another port by now.
        lines = {
            label: re.sub(r"--base-url \S+", f"--base-url {base_url}", each["command"])
            for label, each in levels.items()
        }
        hand = {label: by_hand(line, key, Path(folder) / "hand.json") for label, line in lines.items()}
    if not product_first:
        levels = by_product(bench_once([name]), name)
    rounds = []
    for label, level in levels.items():
        product = {figure: level["metrics"][figure] for figure in FIGURES}
        entry = {"model": name, "round": number, "level": label, "line": level["command"]}
        rounds.append({**entry, "product": product, "hand": hand[label]})
        print(f"{name} at {label}: {difference(rounds[-1:], 'output_throughput'):+.1f} %", flush=True)
    return rounds


def median(rounds: list[dict[str, Any]], who: str, figure: str) -> float:
    return statistics.median(entry[who][figure] for entry in rounds)


def difference(rounds: list[dict[str, Any]], figure: str) -> float:
    """Of the medians, in per cent of what came by hand."""
    hand = median(rounds, "hand", figure)
    return 100 * (median(rounds, "product", figure) - hand) / hand if hand else 0.0


def groups(rounds: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in rounds:
        found.setdefault((entry["model"], entry["level"]), []).append(entry)
    return found


def summary(ladder: dict[str, Any], rounds: list[dict[str, Any]], note: str = "") -> str:
    lines = [
        "# Model ladder",
        "",
        "Measured by the product: `python app.py bench` (all figures: [run.md](run.md), [run.json](run.json)).",
        "",
        '<picture><source media="(prefers-color-scheme: dark)" srcset="run-dark.png"><img src="run.png"></picture>',
        "",
        "| model | loaded, s | KV cache, tokens | concurrency | requests/s | output tok/s | TTFT p50 / p99, ms |"
        " TPOT p50 / p99, ms |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in ladder["rows"]:
        for level in row["levels"]:
            found = level["metrics"]
            loaded, cache = row["load_s"], row["kv_cache_tokens"]
            lines.append(
                f"| {row['model']} | {f'{loaded:.1f}' if loaded else '–'} | {f'{cache:,}' if cache else '–'} "
                f"| {level['label']} | {found['request_throughput']:.2f} | {found['output_throughput']:.1f} "
                f"| {found['p50_ttft_ms']:.0f} / {found['p99_ttft_ms']:.0f} "
                f"| {found['p50_tpot_ms']:.1f} / {found['p99_tpot_ms']:.1f} |"
            )
    return "\n".join([*lines, *_beside(rounds), *(["", note] if note else [])])


def _beside(rounds: list[dict[str, Any]]) -> list[str]:
    if not rounds:
        return []
    count = 1 + max(entry["round"] for entry in rounds)
    lines = [
        "",
        "## Beside `vllm bench serve` by hand",
        "",
        "The exact line that the product gives, run in a shell on the same server; prefix caching off, so that the",
        "same prompts can be sent twice. Product / by hand (difference in per cent), medians of up to "
        f"{count} {'rounds' if count > 1 else 'round'} each.",
        "",
        f"| model | concurrency | {' | '.join(FIGURES.values())} |",
        f"|---|---:|{'---:|' * len(FIGURES)}",
    ]
    differences = []
    for (model, level), some in groups(rounds).items():
        cells = []
        for figure in FIGURES:
            differences.append(difference(some, figure))
            both = f"{_short(median(some, 'product', figure))} / {_short(median(some, 'hand', figure))}"
            cells.append(f"{both} ({differences[-1]:+.1f})")
        lines.append(f"| {model} | {level} | {' | '.join(cells)} |")
    within = sum(abs(value) <= GOAL_PERCENT for value in differences)
    return [
        *lines,
        "",
        f"Within {GOAL_PERCENT:g} %: {within} of {len(differences)} figures; the median of all differences is "
        f"{statistics.median(differences):+.1f} %, of their sizes {statistics.median(map(abs, differences)):.1f} %, "
        f"the largest {max(map(abs, differences)):.1f} %.",
        *_by_chance(rounds),
    ]


def _by_chance(rounds: list[dict[str, Any]]) -> list[str]:
    """How far two runs by hand are apart, of the same level: what no comparison can be finer than."""
    apart = []
    for some in groups(rounds).values():
        for figure in FIGURES:
            values = [entry["hand"][figure] for entry in some]
            if len(values) > 1 and min(values):
                apart.append(100 * (max(values) - min(values)) / statistics.median(values))
    if not apart:
        return []
    return [
        "",
        f"For scale: the rounds by hand differ among themselves by {statistics.median(apart):.1f} % in the median, and "
        f"by up to {max(apart):.1f} %.",
    ]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def hide_folders(out: Path, folders: dict[str, str]) -> None:
    """In what was written: of whoever ran it, nobody needs to know where things lie."""
    for path in [*out.glob("*.json"), *out.glob("*.md"), *out.glob("*.csv")]:
        text = path.read_text(encoding="utf-8")
        for folder, shown in folders.items():
            text = text.replace(folder, shown)
        path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", help="names of the catalogue, or folders with a model")
    parser.add_argument("--concurrency", default="1,8,32,128")
    parser.add_argument("--rounds", type=int, default=1, help="of the lines by hand; 0: only the ladder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in every model's file")
    parser.add_argument("--env", action="append", default=[], metavar="KEY=VALUE", help="in every server's environment")
    parser.add_argument("--out", type=Path, default=RESULTS / "ladder")
    parser.add_argument("--note", default="", help="what else is to be known, for the page")
    words = sys.argv[1:]
    flags = words[words.index("--") + 1 :] if "--" in words else []
    args = parser.parse_args(words[: words.index("--")] if "--" in words else words)
    args.flags, args.out = flags, args.out.absolute()
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="b-") as folder:
        state, models_dir = f"{folder}/state", Path(folder) / "models"
        models_dir.mkdir()
        options = dict(pair.split("=", 1) for pair in args.set)
        names = [model_file(model, models_dir, options, args.env) for model in args.models]
        shown = [Path(word).name if Path(word).is_dir() else word for word in words]
        command = " ".join(["python -m benchmarks.ladder", *shown])
        app = App(str(models_dir), state)
        try:
            ladder = bench(state, str(models_dir), names, args.out, args)
            write_results("ladder", {"rounds": rounds}, command, summary(ladder, rounds, args.note), args.out)
            again = Path(folder) / "again"
            for number in range(args.rounds):
                for name in names:
                    rounds += compare(
                        app, lambda some: bench(state, str(models_dir), some, again, args), ladder, number, name
                    )
                    write_results("ladder", {"rounds": rounds}, command, summary(ladder, rounds, args.note), args.out)
        finally:
            app.end()
    models = {str(Path(model).resolve().parent): "MODELS" for model in args.models if Path(model).is_dir()}
    hide_folders(args.out, {state: "STATE", **models})


if __name__ == "__main__":
    main()
