"""Load tests as if they had been made before: kept runs with invented figures, for tests of what shows them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from server_manager.diagnosis import diagnose
from server_manager.load_test.run import (
    Environment,
    Failure,
    Histogram,
    Level,
    LoadRun,
    LoadState,
    Metrics,
    Note,
    Row,
    RunKind,
    Samples,
    SlaResult,
    SlaTry,
)
from server_manager.load_test.settings import LoadSettings, Sla
from server_manager.load_test.store import RunStore

GIB = 1 << 30
BEGAN = 1_764_000_000.0
"""A day in November 2025, as Unix time in seconds."""
ENVIRONMENT = Environment("0.32.0", ("NVIDIA H100 80GB HBM3",), ("vllm serve Qwen/Qwen2-0.5B-Instruct",), "0.1.0")
_LOG = Path(__file__).parent / "vllm_logs" / "err_bad_arch.log"


def metrics(at_once: float, *, speed: float = 1.0, failed: int = 0, goodput: float | None = None) -> Metrics:
    """Figures that become slower with more requests at once; ``speed`` divides every latency."""
    ttft = (12 + 1.3 * at_once + 0.02 * at_once**1.6) / speed
    tpot = (4 + 0.05 * at_once) / speed
    e2el = ttft + 127 * tpot
    requests = 1000 * at_once / e2el
    spread = {"mean": 1.04, "p50": 1.0, "p90": 1.5, "p99": 2.4}
    latencies = {
        f"{which}_{name}_ms": value * factor
        for name, value in (("ttft", ttft), ("tpot", tpot), ("itl", 0.98 * tpot), ("e2el", e2el))
        for which, factor in spread.items()
    }
    done = int(max(32, 2 * at_once)) - failed
    return Metrics(
        done, failed, done / requests, requests, 128 * requests, 640 * requests, 512 * done, 128 * done, goodput,
        150 * requests, int(at_once), **latencies,
    )  # fmt: skip


def histogram(found: Metrics) -> Histogram:
    """A lopsided hill between the median's half and the 99th percentile."""
    assert found.p50_ttft_ms is not None
    edges = tuple(found.p50_ttft_ms * 0.5 * 1.16**step for step in range(15))
    return Histogram(edges, tuple(round(40 * math.exp(-(((step - 4) / 2.6) ** 2))) for step in range(14)))


def samples(found: Metrics, at_once: int, *, gpu: bool = True) -> Samples:
    """Once a second, for as long as the level took, at least eight seconds."""
    times = tuple(round(0.97 * second, 2) for second in range(max(8, int(found.duration_s))))
    wave = [1 - 0.06 * math.sin(second * 1.7) for second in range(len(times))]
    count = len(times)
    return Samples(
        times,
        tuple(96 * part if gpu else None for part in wave),
        tuple(int(60.2 * GIB) if gpu else None for _ in wave),
        tuple(int(3.1 * GIB) for _ in wave),
        tuple(min(0.97, at_once * 0.004 * part) for part in wave),
        tuple(min(at_once, 256) for _ in range(count)),
        tuple(max(0, at_once - 256) for _ in range(count)),
        tuple(found.output_throughput * part for part in wave),
    )


def level(at_once: int, began: float, *, speed: float = 1.0, gpu: bool = True, failed: int = 0) -> Level:
    """One that is done."""
    found = metrics(at_once, speed=speed, failed=failed)
    command = (
        "vllm bench serve --backend openai-chat --endpoint /v1/chat/completions --base-url http://127.0.0.1:41234 "
        "--model qwen --tokenizer Qwen/Qwen2-0.5B-Instruct --dataset-name random --random-input-len 512 "
        f"--random-output-len 128 --ignore-eos --temperature 0.0 --num-warmups 1 --max-concurrency {at_once} "
        f"--num-prompts {max(32, 2 * at_once)}"
    )
    note = Note("failed", f"{failed} of {2 * at_once} requests failed: Connection reset by peer")
    return Level(
        str(at_once), at_once, None, max(32, 2 * at_once), 7, LoadState.DONE, began, None, command, found, None,
        (note,) if failed else (), histogram(found), samples(found, at_once, gpu=gpu),
    )  # fmt: skip


def row(model: str, levels: tuple[int, ...], *, speed: float = 1.0, gpu: bool = True, failed: int = 0) -> Row:
    """One that is done, with a level for each concurrency."""
    began = BEGAN
    made = []
    for at_once in levels:
        made.append(level(at_once, began, speed=speed, gpu=gpu, failed=failed if at_once == levels[-1] else 0))
        found = made[-1].samples
        assert found is not None
        began += found.t[-1] + 12
    held = {"gpu_bytes": int(60.2 * GIB)} if gpu else {"rss_bytes": int(3.1 * GIB)}
    return Row(
        model, LoadState.DONE, was="started", load_s=23.4 / speed, kv_cache_tokens=int(930_000 * speed),
        max_model_len=4096, levels=tuple(made), **held,
    )  # fmt: skip


def run(number: int, name: str, rows: tuple[Row, ...], kind: RunKind = RunKind.TEST, **more: object) -> LoadRun:
    """A run that is over; ``number`` puts it into the list's order."""
    began = BEGAN + 7200 * number
    made = LoadRun(
        f"20251124-{number:02}0000-abcdef", name, kind, began, LoadSettings(), LoadState.DONE, began + 1, began + 154,
        9, ENVIRONMENT, None, rows,
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def a_ladder() -> LoadRun:
    """Three models, of which the last one did not start."""
    why = diagnose(_LOG.read_text(encoding="utf-8", errors="replace").splitlines())
    broken = Row(
        "Qwen2-7B-Instruct", LoadState.FAILED, error=Failure("Qwen2-7B-Instruct did not start."), diagnosis=why,
        levels=tuple(replace(level(n, BEGAN), state=LoadState.FAILED, metrics=None, samples=None, ttft_histogram=None,
                             command="") for n in (1, 8, 32)),
    )  # fmt: skip
    rows = (row("Qwen2-0.5B-Instruct", (1, 8, 32)), row("Qwen2-1.5B-Instruct", (1, 8, 32), speed=0.6), broken)
    return run(3, "Qwen2 ladder", rows, RunKind.LADDER)


def an_sla_search() -> LoadRun:
    """Up to 24 requests at a time keep the limit."""
    tried = (1, 2, 4, 8, 16, 32, 24, 28)
    found = {n: metrics(n) for n in tried}
    tries = tuple(SlaTry(n, found[n].p99_ttft_ms, n <= 24) for n in tried)
    return run(
        4, "Qwen2-0.5B-Instruct SLA", (row("Qwen2-0.5B-Instruct", tried),), RunKind.SLA,
        settings=LoadSettings(sla=Sla(120, 256)), sla=SlaResult(120, 24, 28, tries, "Up to 24."),
    )  # fmt: skip


def keep(state_dir: Path) -> None:
    """Puts runs of every kind into the folder of an app that is not up."""
    before = run(1, "before", (row("Qwen2-0.5B-Instruct", (1, 8, 32, 128)),))
    after = run(2, "after", (row("Qwen2-0.5B-Instruct", (1, 8, 32, 128), speed=1.25, failed=3),))
    store = RunStore(state_dir / "load-tests")
    for made in (before, after, a_ladder(), an_sla_search()):
        store.save(made)
