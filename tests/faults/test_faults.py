"""A short run of the fault suite; ``python -m tests.faults`` runs long ones (see docs/reliability.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.suite import run
from faults.world import new_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_whatever_dies_nothing_is_left(tmp_path: Path) -> None:
    world = new_world(tmp_path, patience=60)
    run(world, seed=2, steps=24)
    world.place.close()
