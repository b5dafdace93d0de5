"""Short runs of the fault suite; ``python -m tests.faults`` runs long ones (see docs/reliability.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.moments import SLEEP_FAULTS
from faults.sleepers import sleepy_world
from faults.suite import run
from faults.world import new_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_whatever_dies_nothing_is_left(tmp_path: Path) -> None:
    world = new_world(tmp_path, patience=60, forked=True)
    run(world, seed=2, steps=12)
    world.place.close()


def test_whatever_dies_while_models_sleep_nothing_is_left(tmp_path: Path) -> None:
    """And what slept is known to sleep, also by the next app, and answers when it is asked."""
    world = sleepy_world(tmp_path, patience=60, forked=True)
    run(world, seed=7, steps=10, table=SLEEP_FAULTS)
    world.place.close()
    assert world.proved, "nothing slept"
