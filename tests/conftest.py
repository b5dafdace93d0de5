"""What all tests have in common: those that start processes, and two runs of tests side by side (``pytest -n 2``)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import FAKE_MEMORY

HERE = Path(__file__).resolve().parent
os.environ["FAKE_VLLM_SHM_NAME"] = FAKE_MEMORY


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of this test alone, so that others that run at the same time are not mistaken for a leak."""
    folder = Path(f"/tmp/dt-{os.getpid()}-{time.monotonic_ns() % 10**6}")
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    folder.rmdir()


PROCESS_FIXTURES = frozenset(
    {
        "app",
        "deck",
        "guarded",
        "guarded_place",
        "keeping",
        "launch",
        "launcher",
        "place",
        "real_place",
        "run",
        "start_app",
    }
)
"""Whoever uses one of these starts the app, vLLM or the fake: a second each, and there are hundreds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that start processes as slow: ``make check`` is to end within a minute."""
    for item in items:
        if PROCESS_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """With several workers, a test of the real vLLM has the machine to itself: it uses every core for a minute.

    First of all hooks, so that the waiting does not count into a test's time limit.
    """
    with contextlib.ExitStack() as held:
        if "PYTEST_XDIST_WORKER" in os.environ:
            alone = item.get_closest_marker("real") is not None
            # Whoever waits to be alone stands in the door, so that the others cannot take turns before it for ever.
            door = held.enter_context(_locked(HERE / "conftest.py", fcntl.LOCK_EX))
            held.enter_context(_locked(HERE / "real" / "conftest.py", fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
            fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)
