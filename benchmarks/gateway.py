"""What the gateway costs: tokens per second and time to first token through it against direct, in the same run.

    python -m benchmarks.gateway                                       # in front of benchmarks/fake_engine.py
    python -m benchmarks.gateway --models-dir DIR --model NAME         # in front of a real vLLM, which the app starts

For each number of streams the rounds alternate (direct, gateway; then gateway, direct; ...). All streams of a round
begin at once, each with a prompt of its own. The load comes from a process of its own (benchmarks/load_generator.py).
The app's processor time is that of its process (user and system), less what it uses when idle.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.app_start import ROOT, free_port
from benchmarks.gpu_walk import post
from benchmarks.machine import describe_machine, write_results
from benchmarks.server_stop import answers, ask, wait_for
from server_manager.handle_store import HandleStore

STREAMS = (1, 32, 128)
GOALS = {1: 0.98, 32: 0.95, 128: 0.95}
_IDLE_S = 5.0


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    url: str
    model: str
    key: str = ""


@dataclass(frozen=True)
class Setup:
    """The same server, direct and through the gateway."""

    direct: Target
    gateway: Target
    app: psutil.Process
    about: dict[str, Any]


def load(target: Target, streams: int, tokens: int) -> dict[str, float]:
    """One round."""
    with tempfile.NamedTemporaryFile("w", prefix="key-") as key_file:
        key_file.write(target.key)
        key_file.flush()
        argv = [sys.executable, "-m", "benchmarks.load_generator", "--url", target.url, "--model", target.model]
        argv += ["--streams", str(streams), "--tokens", str(tokens), "--key-file", key_file.name]
        found: dict[str, float] = json.loads(subprocess.run(argv, cwd=ROOT, check=True, capture_output=True).stdout)
    return found


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def idle_share(process: psutil.Process) -> float:
    """Of one core, while nobody asks for anything."""
    before = cpu_seconds(process)
    time.sleep(_IDLE_S)
    return (cpu_seconds(process) - before) / _IDLE_S


def measure(setup: Setup, rounds: int, tokens: int) -> list[dict[str, Any]]:
    """Every round, the first of each kind (which does not count) left out."""
    idle = idle_share(setup.app)
    print(f"the app uses {idle:.1%} of a core when idle", flush=True)
    found: list[dict[str, Any]] = []
    for streams in STREAMS:
        for number in range(rounds + 1):
            pair: dict[str, Any] = {"streams": streams}
            kinds = ("direct", "gateway") if number % 2 else ("gateway", "direct")
            for kind in kinds:
                before, began = cpu_seconds(setup.app), time.monotonic()
                result = load(setup.direct if kind == "direct" else setup.gateway, streams, tokens)
                if kind == "gateway":
                    used = cpu_seconds(setup.app) - before - idle * (time.monotonic() - began)
                    result["app_cpu_us_per_token"] = used / result["tokens"] * 1e6
                    result["app_cpu_share"] = used / result["seconds"]
                pair[kind] = result
            if number:
                found.append(pair)
                print(json.dumps(pair), flush=True)
    return found


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """The lines of the Markdown table, and the medians that they show."""
    lines, medians = [], []
    for streams in STREAMS:
        pairs = [row for row in rows if row["streams"] == streams]

        def median(kind: str, key: str, pairs: list[dict[str, Any]] = pairs) -> float:
            return statistics.median(pair[kind][key] for pair in pairs)

        ratios = [pair["gateway"]["tokens_per_second"] / pair["direct"]["tokens_per_second"] for pair in pairs]
        found = {
            "streams": streams,
            "direct_tokens_per_second": median("direct", "tokens_per_second"),
            "gateway_tokens_per_second": median("gateway", "tokens_per_second"),
            "ratio": statistics.median(ratios),
            "ratio_worst": min(ratios),
            "direct_first_token_ms": median("direct", "first_token_median_s") * 1000,
            "gateway_first_token_ms": median("gateway", "first_token_median_s") * 1000,
            "app_cpu_us_per_token": median("gateway", "app_cpu_us_per_token"),
            "app_cpu_share": median("gateway", "app_cpu_share"),
            "generator_cpu_share": median("gateway", "generator_cpu_share"),
        }
        medians.append(found)
        lines.append(
            f"| {streams} | {found['direct_tokens_per_second']:,.0f} | {found['gateway_tokens_per_second']:,.0f} "
            f"| **{found['ratio']:.1%}** (worst {found['ratio_worst']:.1%}; goal {GOALS[streams]:.0%}) "
            f"| {found['direct_first_token_ms']:.1f} | {found['gateway_first_token_ms']:.1f} "
            f"| {found['app_cpu_us_per_token']:.1f} | {found['app_cpu_share']:.0%} "
            f"| {found['generator_cpu_share']:.0%} |"
        )
    return lines, medians


@contextmanager
def app(state_dir: str, *more: str) -> Iterator[tuple[str, psutil.Process]]:
    """The product, as a process."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "app.py", "--no-start", "--port", str(port), "--state-dir", state_dir, *more]
    process = subprocess.Popen(argv, cwd=ROOT)
    try:
        wait_for(lambda: answers(url), "the app")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(120)


@contextmanager
def with_fake_engine(step_ms: float) -> Iterator[Setup]:
    port = free_port()
    engine = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "benchmarks.fake_engine", "--port", str(port), "--step-ms", str(step_ms)]
    process = subprocess.Popen(argv, cwd=ROOT)
    try:
        with tempfile.TemporaryDirectory(prefix="g-") as state, app(state, "--attach", f"fake={engine}") as (url, deck):
            about = {"engine": "benchmarks/fake_engine.py", "step_ms": step_ms}
            yield Setup(Target(engine, "fake"), Target(url, "fake"), deck, about)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def with_vllm(models_dir: str, model: str) -> Iterator[Setup]:
    more = ["--models-dir", models_dir] if models_dir else []
    with tempfile.TemporaryDirectory(prefix="g-") as state, app(state, *more) as (url, deck):
        post(f"{url}/api/servers/{model}/start", {})
        wait_for(lambda: ask(f"{url}/api/servers/{model}")["state"] in ("ready", "failed"), "the start")
        status = ask(f"{url}/api/servers/{model}")
        if status["state"] == "failed":
            raise RuntimeError(status["exit"]["message"])
        record = next(record for record in HandleStore(Path(state) / "servers").load_all() if record.name == model)
        direct = Target(status["base_url"], status["served_model_name"], record.api_key)
        yield Setup(direct, Target(url, model), deck, {"engine": "vllm", "command": status["command"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a model of the catalogue; without it the fake engine")
    parser.add_argument("--models-dir", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--step-ms", type=float, default=5.0, help="of the fake engine: its time for a token")
    parser.add_argument("--name", default="gateway", help="of the files in docs/benchmarks")
    parser.add_argument("--json", type=Path, help="write the results here, and nothing into docs/benchmarks")
    args = parser.parse_args()
    setting = with_vllm(args.models_dir, args.model) if args.model else with_fake_engine(args.step_ms)
    with setting as setup:
        rows = measure(setup, args.rounds, args.tokens)
    lines, medians = table(rows)
    asked = f" --model {args.model}" if args.model else f" --step-ms {args.step_ms:g}"
    command = f"python -m benchmarks.gateway{asked} --rounds {args.rounds} --tokens {args.tokens}"
    engine = f"vLLM with {args.model}" if args.model else f"the fake engine ({args.step_ms:g} ms a step)"
    summary = "\n".join(
        [
            f"# The gateway in front of {engine}",
            "",
            f"Answers of {args.tokens} tokens, all streams of a round at once; medians of {args.rounds} rounds, direct"
            " and gateway alternating. The ratio is the median of the pairs.",
            "",
            "| streams | direct tok/s | gateway tok/s | ratio | first token direct, ms | gateway, ms "
            "| app CPU, us per token | app, of a core | load generator, of a core |",
            "|---|---|---|---|---|---|---|---|---|",
            *lines,
            "",
            f"Engine, load generator and app share {os.cpu_count()} cores with whatever else runs (load average"
            f" {os.getloadavg()[0]:.1f} at the end). The app's time goes to one read and one write of a socket for each"
            " chunk, and at the beginning of a round to taking all its requests.",
        ]
    )
    results = {"setup": setup.about, "load_average": os.getloadavg(), "medians": medians, "rounds": rows}
    if args.json:
        document = {"machine": describe_machine(), "command": command, **results}
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(summary)
    else:
        write_results(args.name, results, command, summary)


if __name__ == "__main__":
    main()
