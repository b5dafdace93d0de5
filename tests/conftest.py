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
