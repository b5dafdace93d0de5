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
# Else matplotlib would look at every font of the machine again in each home that a test makes.
os.environ.setdefault("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))


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


LONGEST_FIRST = (
    "real", "whole_app", "faults", "browser", "launchers", "webui", "benchmarks", "test_start_progress.py", "tools",
    "server_manager",
)  # fmt: skip
"""Folders and files whose tests take longest, so that no worker is left alone with a long file at the end. The real
vLLM and the page, which must not run at the same time, are not beside each other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that start processes as slow: ``make check`` is to end within a minute."""
    ranks = {folder: rank for rank, folder in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(HERE).parts[0], len(ranks)))
    for item in items:
        if PROCESS_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """With several workers, no test of the page runs beside the real vLLM, which uses every core for a minute: some
    watch how text moves from frame to frame.

    First of all hooks, so that the waiting does not count into a test's time limit.
    """
    is_real, is_page = (item.get_closest_marker(name) is not None for name in ("real", "browser"))
    with contextlib.ExitStack() as held:
        if "PYTEST_XDIST_WORKER" in os.environ and (is_real or is_page):
            # Whoever waits for the real vLLM stands in the door: else the others could take turns before it for ever.
            door = held.enter_context(_locked(HERE / "conftest.py", fcntl.LOCK_EX))
            held.enter_context(_locked(HERE / "real" / "conftest.py", fcntl.LOCK_EX if is_real else fcntl.LOCK_SH))
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
