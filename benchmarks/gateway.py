"""What the gateway costs: tokens per second and time to first token through it against direct, in the same run.

    python -m benchmarks.gateway                                       # in front of benchmarks/fake_engine.py
    python -m benchmarks.gateway --models-dir DIR --model NAME         # in front of a real vLLM, which the app starts
    python -m benchmarks.gateway --pin EngineCor=0-1 --pin engine=2-3 --pin app=4-5 …

For each number of streams each round has every way once, in turning order: direct; through a process that passes bytes
on and does nothing else (benchmarks/byte_proxy.py); through the gateway. All streams of a round begin at once, each
with a prompt of its own. The load comes from a process of its own (benchmarks/load_generator.py).

For every process its time on processors, its time of waiting for one and its switches are noted: where the engine
itself takes more time for a token than direct, what costs is not in the gateway's code.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.app_start import ROOT, free_port
from benchmarks.gateway_report import process_lines, speed_lines
from benchmarks.gpu_walk import post
from benchmarks.machine import describe_machine, write_results
from benchmarks.process_use import cpus_of, pin, steal_s, tree_of, use_of
from benchmarks.server_stop import answers, ask, wait_for
from server_manager.handle_store import HandleStore

WAYS = ("direct", "bytes", "gateway")
IDLE_S = 5.0


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    url: str
    model: str
    key: str = ""


@dataclass(frozen=True)
class Setup:
    """The same server, by every way."""

    targets: Mapping[str, Target]
    processes: Mapping[str, int]
    """Pids by name, of which the use of processors is noted."""
    about: dict[str, Any]
    pins: Mapping[str, str]


def load(target: Target, streams: int, tokens: int, *options: str) -> dict[str, Any]:
    """The load generator's figures of one round; ``options`` are further ones of its command line."""
    with tempfile.NamedTemporaryFile("w", prefix="key-") as key_file:
        key_file.write(target.key)
        key_file.flush()
        argv = [sys.executable, "-m", "benchmarks.load_generator", "--url", target.url, "--model", target.model]
        argv += ["--streams", str(streams), "--tokens", str(tokens), "--key-file", key_file.name]
        argv += options
        found: dict[str, Any] = json.loads(subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    return found


def idle_share(pid: int, seconds: float = IDLE_S) -> float:
    """Of one core, while nobody asks for anything."""
    before = use_of(pid)
    time.sleep(seconds)
    return use_of(pid).since(before).cpu_s / seconds


def measure(
    setup: Setup, ways: Sequence[str], streams_of: Sequence[int], rounds: int, tokens: int
) -> list[dict[str, Any]]:
    """Every round, the first of each kind (which does not count) left out."""
    idle = idle_share(setup.processes["app"])
    print(f"the app uses {idle:.1%} of a core when idle", flush=True)
    found: list[dict[str, Any]] = []
    for streams in streams_of:
        for number in range(rounds + 1):
            turn = number % len(ways)
            results: dict[str, Any] = {"streams": streams}
            for way in (*ways[turn:], *ways[:turn]):
                results[way] = one_round(setup, way, streams, tokens, idle)
            if number:
                found.append(results)
                print(json.dumps(results), flush=True)
    return found


def one_round(setup: Setup, way: str, streams: int, tokens: int, idle: float) -> dict[str, Any]:
    """The load generator's figures, with what every process used meanwhile: of the app, less what it uses when idle."""
    options = ["--cpus", setup.pins["load"]] if "load" in setup.pins else []
    for name, pid in setup.processes.items():
        options += ["--watch", f"{name}={pid}"]
    stolen = steal_s()
    result = load(setup.targets[way], streams, tokens, *options)
    result["stolen_s"] = steal_s() - stolen
    del result["first_tokens_s"]  # of each stream: the median and the worst are enough here
    app_use = result["processes"]["app"]
    app_use["cpu_s"] = max(0.0, app_use["cpu_s"] - idle * result["seconds"])
    return result


@contextmanager
def byte_proxy(target: Target) -> Iterator[tuple[Target, int]]:
    """The byte proxy before that target, and its pid."""
    port = free_port()
    to = target.url.partition("://")[2]
    argv = [sys.executable, "-m", "benchmarks.byte_proxy", "--port", str(port), "--to", to]
    process = subprocess.Popen(argv, cwd=ROOT)
    try:
        yield Target(f"http://127.0.0.1:{port}", target.model, target.key), process.pid
    finally:
        process.terminate()
        process.wait(30)


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
def fake_engine(*options: str) -> Iterator[tuple[str, int]]:
    """The stand-in for vLLM as a process: its URL and pid."""
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.fake_engine", "--port", str(port), *options]
    process = subprocess.Popen(argv, cwd=ROOT)
    try:
        wait_for(lambda: accepts(port) or process.poll() is not None, "the fake engine")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(30)


def accepts(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def with_fake_engine(options: Mapping[str, object], pins: Mapping[str, str]) -> Iterator[Setup]:
    """The app in front of it. ``options`` are those of its command line, by name."""
    argv = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with (
        fake_engine(*argv) as (engine, pid),
        tempfile.TemporaryDirectory(prefix="g-") as state,
        app(state, "--attach", f"fake={engine}") as (url, deck),
    ):
        wait_for(lambda: ask(f"{url}/api/servers/fake")["state"] == "ready", "the fake engine")
        about = {"engine": "benchmarks/fake_engine.py", **options}
        targets = Target(engine, "fake"), Target(url, "fake")
        with all_ways(*targets, {"engine": pid}, deck, about, pins) as setup:
            yield setup


@contextmanager
def with_vllm(models_dir: str, model: str, pins: Mapping[str, str]) -> Iterator[Setup]:
    more = ["--models-dir", models_dir] if models_dir else []
    with tempfile.TemporaryDirectory(prefix="g-") as state, app(state, *more) as (url, deck):
        post(f"{url}/api/servers/{model}/start", {})
        wait_for(lambda: ask(f"{url}/api/servers/{model}")["state"] in ("ready", "failed"), "the start")
        status = ask(f"{url}/api/servers/{model}")
        if status["state"] == "failed":
            raise RuntimeError(status["exit"]["message"])
        record = next(record for record in HandleStore(Path(state) / "servers").load_all() if record.name == model)
        direct = Target(status["base_url"], status["served_model_name"], record.api_key)
        about = {"engine": "vllm", "command": status["command"]}
        with all_ways(direct, Target(url, model), tree_of(record.pid, "engine"), deck, about, pins) as setup:
            yield setup


@contextmanager
def all_ways(
    direct: Target,
    gateway: Target,
    engine: Mapping[str, int],
    deck: psutil.Process,
    about: dict[str, Any],
    pins: Mapping[str, str],
) -> Iterator[Setup]:
    """With the byte proxy, and every process where ``pins`` wants it: by a part of its name, the longest that fits."""
    with byte_proxy(direct) as (through_bytes, proxy_pid):
        processes = {**engine, "app": deck.pid, "bytes": proxy_pid}
        for name, pid in processes.items():
            if parts := [part for part in pins if part in name]:
                pin(pid, cpus_of(pins[max(parts, key=len)]))
        targets = {"direct": direct, "bytes": through_bytes, "gateway": gateway}
        yield Setup(targets, processes, about | {"pins": dict(pins)}, pins)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="a model of the catalogue; without it the fake engine")
    parser.add_argument("--models-dir", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", default="1,32,128")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--step-ms", type=float, default=5.0, help="of the fake engine: its time for a token")
    parser.add_argument("--work-us", type=float, default=0.0, help="of the fake engine: processor time for a chunk")
    parser.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="NAME=CPUS",
        help="app, bytes, load, engine (all of it), or a part of the name of one of its processes: EngineCor=0-1",
    )
    parser.add_argument("--name", default="gateway", help="of the files in docs/benchmarks")
    parser.add_argument("--json", type=Path, help="write the results here, and nothing into docs/benchmarks")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    pins = dict(each.split("=", 1) for each in args.pin)
    ways = [way for way in WAYS if way in args.ways.split(",")]
    streams_of = [int(each) for each in args.streams.split(",")]
    fake = with_fake_engine({"step_ms": args.step_ms, "work_us": args.work_us}, pins)
    with with_vllm(args.models_dir, args.model, pins) if args.model else fake as setup:
        rows = measure(setup, ways, streams_of, args.rounds, args.tokens)
    command = "python -m benchmarks.gateway " + " ".join(sys.argv[1:])
    engine = f"vLLM with {args.model}" if args.model else f"the fake engine ({args.step_ms:g} ms a step)"
    summary = "\n".join(
        [
            f"# The gateway in front of {engine}",
            "",
            f"Answers of {args.tokens} tokens, all streams of a round at once; medians of {args.rounds} rounds, in each"
            " of which every way had its turn. Ratios are the median of those of the rounds.",
            "",
            *speed_lines(rows, ways),
            "",
            *process_lines(rows, ways),
            "",
            f"All of them share {os.cpu_count()} cores with whatever else runs (load average {os.getloadavg()[0]:.1f}"
            " at the end).",
        ]
    )
    results = {"setup": setup.about, "load_average": os.getloadavg(), "rounds": rows}
    if args.json:
        document = {"machine": describe_machine(), "command": command, **results}
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        print(summary)
    else:
        write_results(args.name, results, command, summary)


if __name__ == "__main__":
    main()
