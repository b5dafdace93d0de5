"""Fixtures for every test that starts processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


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
