"""A start that takes long is not one that hangs."""

from __future__ import annotations

from server_manager.progress_watch import ProgressWatch


class Clock:
    """Seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(watch: ProgressWatch, clock: Clock, seconds: int, *, log_bytes: int = 0, cpu_share: float = 0.0) -> bool:
    stalled = False
    for _ in range(seconds):
        clock.now += 1
        stalled = watch.stalled(log_bytes, (clock.now - 1000) * cpu_share)
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
    assert run(watch, clock, 120, cpu_share=0.02) is True


def test_a_silent_compile_is_work() -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    assert run(watch, clock, 3600, cpu_share=0.5) is False


def test_each_new_byte_of_the_log_begins_anew() -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    for log_bytes in range(1, 100):
        assert run(watch, clock, 50, log_bytes=log_bytes) is False
    assert run(watch, clock, 61, log_bytes=99) is True


def test_work_that_ends_begins_the_count() -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    assert run(watch, clock, 600, cpu_share=1.0) is False
    for _ in range(60):
        clock.now += 1
        assert watch.stalled(0, 600.0) is False
    clock.now += 5
    assert watch.stalled(0, 600.0) is True


def test_processor_time_that_shrinks_because_a_process_ended_is_no_work() -> None:
    clock = Clock()
    watch = ProgressWatch(60, clock)
    run(watch, clock, 10, cpu_share=1.0)
    clock.now += 61
    assert watch.stalled(0, 3.0) is True
