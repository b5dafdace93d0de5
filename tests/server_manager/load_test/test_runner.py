"""Load tests from the request to their end, with real processes."""

from __future__ import annotations

import pytest
from shooting_range import Range

from server_manager.load_test.run import LoadState

pytestmark = pytest.mark.slow


async def test_a_sweep_gives_figures_for_each_level(shooting: Range) -> None:
    run = await shooting.begin("quick", concurrency=[1, 4], num_prompts=6)
    run = await shooting.reach(run.id)
    print(run)
    assert run.state is LoadState.DONE
