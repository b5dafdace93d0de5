"""A start on the command line, and what is said of one that hangs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from server_manager.download_watch import Download
from server_manager.errors import StartError
from server_manager.progress_watch import ProgressWatch, Signs
from server_manager.stall_report import stalled_start
from server_manager.start_meter import StartMeter
from server_manager.start_phase import StartPhase
from server_manager.start_report import phase_line, wait_for_start


def status(state: str = "starting", phase: str | None = None, detail: str = "", **more: Any) -> dict[str, Any]:
    return {
        "state": state, "phase": phase, "detail": detail, "progress": None, "elapsed_s": 3.0, "exit": None,
        "ready_at": None, "started_at": 1000.0, "base_url": None,
    } | more  # fmt: skip


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (status("ready"), ""),
        (status("starting"), "preparing"),
        (status("starting", "weights", "2/4"), "loading weights 2/4"),
        (
            status("starting", "weights", "2/4", progress={"eta_s": 12.4, "overdue": False}),
            "loading weights 2/4, about 12 s left",
        ),
        (status("starting", "compile", progress={"eta_s": 0.2, "overdue": False}), "compiling, about 1 s left"),
        (status("starting", "compile", progress={"eta_s": 125.0, "overdue": False}), "compiling, about 2 min 5 s left"),
        (status("starting", "compile", progress={"eta_s": None, "overdue": True}), "compiling, longer than usual"),
        (status("starting", "download", "3.2 GB, 45 MB/s"), "downloading the weights 3.2 GB, 45 MB/s"),
        (status("starting", "of tomorrow"), "of tomorrow"),
    ],
)
def test_line_of_a_phase(now: dict[str, Any], line: str) -> None:
    assert phase_line(now) == line


def test_every_phase_has_words() -> None:
    for phase in StartPhase:
        assert phase_line(status("starting", phase.value)) not in ("", phase.value) or phase is StartPhase.PREPARE


READY = status(
    "ready",
    ready_at=1090.0,
    base_url="http://127.0.0.1:8000",
    progress={"eta_s": 0.0, "elapsed_s": 41.2, "last_total_s": 38.9},
)


def run(statuses: list[dict[str, Any]], out: io.StringIO) -> None:
    following: Iterator[dict[str, Any]] = iter(statuses)
    wait_for_start(lambda: next(following), out=out, pause=lambda seconds: None)


def test_waiting_shows_each_phase_once_in_a_file() -> None:
    out = io.StringIO()
    weights = [status("starting", "weights", f"{n}/4") for n in range(4)]
    run([status("starting", "import"), *weights, status("starting", "kv_cache"), READY], out)
    assert out.getvalue().splitlines() == [
        "loading Python modules",
        "loading weights 0/4",
        "reserving the KV cache",
        "ready after 41 s (last time 39 s): http://127.0.0.1:8000",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_waiting_rewrites_its_line_on_a_terminal() -> None:
    out = Terminal()
    run(
        [
            status("starting", "import"),
            status("starting", "weights", "1/2"),
            status("starting", "weights", "2/2"),
            READY,
        ],
        out,
    )
    shown = [line.rpartition("\x1b[K")[2].strip() for line in out.getvalue().split("\n") if line]
    assert shown == [
        "3 s  loading Python modules",
        "3 s  loading weights 2/2",
        "ready after 41 s (last time 39 s): http://127.0.0.1:8000",
    ]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (status("failed", exit={"message": "Port taken.", "next_step": "Free it."}), "Port taken. Free it."),
        (status("stopped"), "It is stopped."),
    ],
)
def test_waiting_ends_with_the_reason(end: dict[str, Any], said: str) -> None:
    with pytest.raises(StartError) as caught:
        run([status("starting", "import"), end], io.StringIO())
    assert str(caught.value) == said


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("lines", "download", "said"),
    [
        ([], None, ("“import”", "nvidia-smi")),
        (["non-default args: {}"], None, ("“config”", "HF_HUB_OFFLINE")),
        (["Initializing a V1 LLM engine (v0.32.0)"], None, ("“engine”", "NCCL_DEBUG=INFO")),
        (
            ["Starting to load model a/b..."],
            Download(3_200_000_000, 1, 0, None),
            ("“download” (3.2 GB", "start it again"),
        ),
        (["Loading safetensors checkpoint shards:  50% Completed | 2/4 ["], None, ("“weights” (2/4)", "network disk")),
        (["Starting torch.compile"], None, ("“compile”", "enforce-eager")),
        (["Capturing CUDA graphs (FULL):  50%|##| 4/8 [00:01]"], None, ("“cuda_graphs” (4/8)", "enforce-eager")),
    ],
)
def test_stall_says_where_for_how_long_and_what_usually_hangs_there(
    lines: list[str], download: Download | None, said: tuple[str, str]
) -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    meter = StartMeter(may_download=download is not None, clock=clock)
    meter.take(lines)
    meter.take([], download)
    watch.stalled(10, Signs(1.0))
    clock.now = 615
    watch.stalled(10, Signs(3.0))
    error = stalled_start(meter, watch)
    assert error.message.startswith(f"Nothing has moved for 615 s, in the phase {said[0]}")
    assert "logged 615 s ago" in error.message
    assert said[1] in error.next_step
    assert error.facts["phase"] is meter.reached.phase
    if download:
        assert "3.2 GB of the model are on the disk" in error.message


def test_first_start_is_told_as_long_as_it_was_waited_for() -> None:
    out = io.StringIO()
    run([status("starting", "import"), READY | {"progress": None}], out)
    assert out.getvalue().splitlines()[-1] == "ready after 1 min 30 s: http://127.0.0.1:8000"
