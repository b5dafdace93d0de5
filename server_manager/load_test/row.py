"""One model of a run: brought up, measured level by level."""

from __future__ import annotations

from server_manager.load_test.bench import Bench
from server_manager.load_test.live_run import LiveRun


async def measure_row(live: LiveRun, index: int, bench: Bench) -> None:
    """Everything from bringing the server up to its last level. How it ends is written into the row; raises
    ``CancelledError`` only."""
    raise NotImplementedError
