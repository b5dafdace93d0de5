"""A start that takes long is not one that hangs."""

from __future__ import annotations

import os

import pytest

from server_manager.progress_watch import ProgressWatch, Signs, io_bytes


class Clock:
    """Seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(watch: ProgressWatch, clock: Clock, seconds: int, *, log_bytes: int = 0, **per_second: float) -> bool:
    """``per_second`` is what of the ``Signs`` grows, by how much each second."""
    stalled = False
    for _ in range(seconds):
        clock.now += 1
        grown = {name: (clock.now - 1000) * rate for name, rate in per_second.items()}
        stalled = watch.stalled(log_bytes, Signs(**grown))  # type: ignore[arg-type]
    return stalled


def test_silence_without_work_is_a_stall() -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    assert run(watch, clock, 60) is False
    assert run(watch, clock, 2) is True
    assert watch.idle_s == 61


def test_polling_processes_do_not_count_as_work() -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    assert run(watch, clock, 120, cpu_seconds=0.02) is True


def test_a_silent_compile_is_work() -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    assert run(watch, clock, 3600, cpu_seconds=0.5) is False


def test_each_new_byte_of_the_log_begins_anew() -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    for log_bytes in range(1, 100):
        assert run(watch, clock, 50, log_bytes=log_bytes) is False
    assert run(watch, clock, 61, log_bytes=99) is True


def test_work_that_ends_begins_the_count() -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    assert run(watch, clock, 600, cpu_seconds=1.0) is False
    for _ in range(60):
        clock.now += 1
        assert watch.stalled(0, Signs(600.0)) is False
    clock.now += 5
    assert watch.stalled(0, Signs(600.0)) is True


def test_processor_time_that_shrinks_because_a_process_ended_is_no_work() -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    run(watch, clock, 10, cpu_seconds=1.0)
    clock.now += 61
    assert watch.stalled(0, Signs(3.0)) is True


@pytest.mark.parametrize(
    ("grown", "by", "stalls"),
    [
        ("io_bytes", 3_000_000, False),  # a slow network disk: hardly any processor time
        ("io_bytes", 200, True),  # processes that poll read eight bytes at a time
        ("download_bytes", 1_000, False),
        ("gpu_bytes", 1, False),
    ],
)
def test_files_download_and_gpu_memory_count_too(grown: str, by: float, stalls: bool) -> None:
    clock = Clock()
    assert run(ProgressWatch(60, clock), clock, 600, **{grown: by}) is stalls


def test_figures_of_a_stall() -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    run(watch, clock, 20, log_bytes=5, cpu_seconds=0.5)
    assert watch.cpu_cores == pytest.approx(0.5)
    assert watch.log_idle_s == 19
    assert watch.idle_s <= 2


def test_bytes_of_this_process_and_of_one_that_is_gone() -> None:
    before = io_bytes([os.getpid()])
    assert before > 0
    with open("/dev/zero", "rb") as file:
        file.read(1_000_000)
    assert io_bytes([os.getpid(), 2**22 + 1]) >= before + 1_000_000
