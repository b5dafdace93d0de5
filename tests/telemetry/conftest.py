from __future__ import annotations

import sys

import pytest
from fake_pynvml import FakeGpu, FakePynvml


@pytest.fixture
def pynvml(monkeypatch: pytest.MonkeyPatch) -> FakePynvml:
    """The ``pynvml`` that the code under test imports; one healthy GPU to begin with."""
    fake = FakePynvml(FakeGpu())
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake
