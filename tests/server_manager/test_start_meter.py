"""The progress of a start: recorded starts replayed with their own times, faster, slower, and out of the ordinary."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest
from processes import VLLM_LOGS

from server_manager.download_watch import Download
from server_manager.log_file import split_lines
from server_manager.start_estimate import Basis, Expectation, remaining
from server_manager.start_meter import StartMeter, StartProgressView
from server_manager.start_phase import StartPhase, phase_of

P = StartPhase
OK_LOGS = [path.stem for path in sorted(VLLM_LOGS.glob("ok_*.log"))]
_TIME = re.compile(r" \d\d-\d\d (\d\d):(\d\d):(\d\d) \[")
_IMPORT_S = 6.0
"""Before a log's first line."""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def timed_lines(log: str) -> Iterator[tuple[float, str]]:
    """The lines of a start with the second of each, counted from the process; up to the one that says it serves."""
    first = None
    at = _IMPORT_S
    for line in split_lines((VLLM_LOGS / f"{log}.log").read_bytes()):
        if found := _TIME.search(line):
            seconds = int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3])
            first = seconds if first is None else first
            at = max(at, _IMPORT_S + seconds - first)
        yield at, line
        if "Application startup complete" in line:
            return


def replay(
    log: str, expectation: Expectation | None = None, *, pace: float = 1.0, step_s: float = 0.25
) -> tuple[StartMeter, list[tuple[float, StartProgressView]]]:
    """Looks every quarter of a second, as the app does; the views with the seconds still to go at each."""
    clock = Clock()
    meter = StartMeter(expectation, clock=clock)
    lines = [(at * pace, line) for at, line in timed_lines(log)]
    end = lines[-1][0]
    views = []
    for tick in itertools.count(1):
        clock.now = tick * step_s
        due = [line for at, line in lines if clock.now - step_s < at <= clock.now]
        meter.take(due)
        if clock.now >= end:
            return meter, views
        views.append((end - clock.now, meter.view()))
    raise AssertionError("unreachable")


def learned(log: str) -> Expectation:
    meter, _ = replay(log)
    return Expectation(meter.durations(), Basis.SAME, sum(meter.durations().values()))


@pytest.mark.parametrize("log", OK_LOGS)
def test_second_start_knows_its_end_from_the_begin(log: str) -> None:
    _, views = replay(log, learned(log))
    total = views[0][0]
    for to_go, view in views:
        assert view.eta_s is not None
        assert view.eta_s == pytest.approx(to_go, abs=1 + 0.04 * total)
        assert view.fraction == pytest.approx(view.elapsed_s / (view.elapsed_s + to_go), abs=0.08)
        assert not view.overdue


@pytest.mark.parametrize("log", OK_LOGS)
@pytest.mark.parametrize("pace", [0.3, 1.0, 4.0])
def test_bar_never_goes_back_and_is_never_full_before_the_end(log: str, pace: float) -> None:
    meter, views = replay(log, learned(log), pace=pace)
    fractions = [view.fraction for _, view in views]
    assert all(fraction is not None for fraction in fractions)
    assert fractions == sorted(fractions)  # type: ignore[type-var]
    assert all(0 < fraction < 1 for fraction in fractions)  # type: ignore[operator]
    assert meter.finished().fraction == 1.0


@pytest.mark.parametrize("log", OK_LOGS)
def test_eta_of_a_slower_start_neither_reaches_zero_nor_is_made_up(log: str) -> None:
    _, views = replay(log, learned(log), pace=4.0)
    assert all(view.eta_s is None or view.eta_s >= 0.5 for _, view in views)
    assert any(view.overdue for _, view in views)
    assert all(view.overdue for _, view in views if view.eta_s is None)
    standing = [len(list(group)) for _, group in itertools.groupby(view.eta_s for _, view in views if view.eta_s)]
    assert max(standing) <= 4 / 0.25, "no ETA stands for longer than 4 s"


@pytest.mark.parametrize("log", OK_LOGS)
def test_first_start_has_phases_and_no_estimate(log: str) -> None:
    meter, views = replay(log)
    for _, view in views:
        assert (view.fraction, view.eta_s, view.overdue, view.basis) == (None, None, False, Basis.NONE)
    assert sum(meter.durations().values()) == pytest.approx(list(timed_lines(log))[-1][0], abs=0.5)
    shown = {each.phase for each in meter.finished().phases if each.elapsed_s is not None}
    named = {reached.phase for _, line in timed_lines(log) if (reached := phase_of(line))}
    assert shown <= named | {P.IMPORT}
    assert {P.IMPORT, P.CONFIG, P.WEIGHTS, P.KV_CACHE} & shown


def test_compile_of_the_recorded_gpu_start_takes_its_time() -> None:
    meter, _ = replay("ok_gpu_cold_0.25.1")
    taken = meter.durations()
    assert meter.compiled
    assert taken[P.CONFIG] == pytest.approx(22, abs=1)
    assert taken[P.COMPILE] == pytest.approx(23, abs=2)
    assert taken[P.CUDA_GRAPHS] == pytest.approx(21, abs=2)


HOUR = 3600.0
USUAL = {P.IMPORT: 6.0, P.CONFIG: 4.0, P.WEIGHTS: 20.0, P.KV_CACHE: 5.0, P.SERVING: 1.0}


@pytest.mark.parametrize(
    ("phase", "in_phase_s", "share", "total_s", "overdue"),
    [
        (P.IMPORT, 0.0, None, 36.0, False),
        (P.IMPORT, 5.0, None, 31.0, False),
        (P.IMPORT, 7.0, None, 30.35, False),  # a little late is nothing to speak of
        (P.IMPORT, 60.0, None, None, True),
        (P.WEIGHTS, 10.0, None, 16.0, False),
        (P.WEIGHTS, 10.0, 0.5, 16.0, False),  # half of the shards in half of the time
        (P.WEIGHTS, 10.0, 0.25, 21.0, False),  # a slower disk: 30 s by its own pace, 10 s by what was usual
        (P.WEIGHTS, 60.0, 0.5, 37.5, True),
        (P.WEIGHTS, 60.0, 0.0, None, True),
        (P.COMPILE, 1.0, None, 6.05, False),  # not expected at all
        (P.COMPILE, 10.0, None, None, True),
        (P.SERVING, 1.0, None, 0.5, False),
        (P.DOWNLOAD, HOUR, None, None, False),  # no size: no telling
    ],
)
def test_what_is_left(
    phase: StartPhase, in_phase_s: float, share: float | None, total_s: float | None, overdue: bool
) -> None:
    left = remaining(USUAL, phase, in_phase_s, share=share)
    assert left.total_s == (None if total_s is None else pytest.approx(total_s))
    assert left.overdue is overdue


def test_download_of_known_size_is_counted_by_its_own_pace() -> None:
    left = remaining(USUAL, P.DOWNLOAD, 10.0, download=Download(100, 100, 10.0, 300))
    assert left.total_s == pytest.approx(20 + 26)


STARTING = [
    "non-default args: {}",
    "Initializing a V1 LLM engine (v0.32.0)",
    "(Worker pid=7) INFO 11-22 10:09:42 [m.py:1] Starting to load model Qwen/Qwen2-0.5B-Instruct...",
]


def test_download_is_a_phase_of_its_own_and_shows_its_figures() -> None:
    clock = Clock()
    meter = StartMeter(Expectation(USUAL, Basis.SAME), may_download=True, clock=clock)
    meter.take(STARTING)
    assert meter.wants_download
    clock.now = 10
    meter.take([], Download(10_000_000, 10_000_000, 1e6, 30_000_000))
    view = meter.view()
    assert (meter.reached.phase, meter.reached.detail) == (P.DOWNLOAD, "10 MB / 30 MB, 1 MB/s")
    assert view.download is not None
    assert (view.download.bytes_there, view.download.total_bytes, view.download.eta_s) == (10_000_000, 30_000_000, 20)
    assert view.eta_s == pytest.approx(20 + 26)
    before = view.fraction
    clock.now = 20
    meter.take([], Download(10_000_000, 10_000_000, 0, 30_000_000))
    view = meter.view()
    assert meter.reached.detail == "10 MB / 30 MB, 0 kB/s", "it stands still, and that is said"
    assert view.eta_s is None
    assert view.fraction is not None
    assert before is not None
    assert view.fraction >= before
    clock.now = 30
    meter.take(["Loading safetensors checkpoint shards:   0% Completed | 0/1 [00:00<?, ?it/s]"])
    assert meter.reached.phase is P.WEIGHTS
    assert not meter.wants_download
    assert meter.view().download is None
    assert meter.durations()[P.DOWNLOAD] == 20


def test_adopted_start_is_followed_without_times() -> None:
    meter = StartMeter(known_from_start=False, clock=Clock())
    meter.take(STARTING)
    assert meter.reached.phase is P.WEIGHTS
    assert meter.durations() == {}
    assert all(each.elapsed_s is None for each in meter.view().phases)
    assert meter.view().eta_s is None
