"""The run that is going on: the one place where a run changes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from server_manager.load_test.run import OVER_STATES, Level, LoadRun, LoadState, Row
from server_manager.load_test.store import RunStore


class LiveRun:
    """Holds the newest version of a run. Its methods belong to the event loop."""

    def __init__(self, run: LoadRun, store: RunStore) -> None:
        self.run = run
        self._store = store
        self._saving = asyncio.Lock()

    @property
    def id(self) -> str:
        return self.run.id

    def row(self, index: int) -> Row:
        return self.run.rows[index]

    def level(self, row: int, index: int) -> Level:
        return self.run.rows[row].levels[index]

    def change(self, **fields: Any) -> None:
        """Changes fields of the run itself."""
        self.run = replace(self.run, **fields, revision=self.run.revision + 1)

    def change_row(self, row: int, **fields: Any) -> None:
        """Changes fields of a row."""
        rows = self.run.rows
        self.change(rows=(*rows[:row], replace(rows[row], **fields), *rows[row + 1 :]))

    def change_level(self, row: int, index: int, **fields: Any) -> None:
        """Changes fields of a level."""
        levels = self.run.rows[row].levels
        self.change_row(row, levels=(*levels[:index], replace(levels[index], **fields), *levels[index + 1 :]))

    async def save(self) -> None:
        """Writes the run as it is now. Raises ``StateDirError``."""
        async with self._saving:  # an older version must not overtake a newer one
            await asyncio.to_thread(self._store.save, self.run)

    def close(self, state: LoadState) -> None:
        """Ends the run in that state, and what of it is going on. What has not begun is stopped with it; of an
        interrupted one it stays as it is.
        """
        for index, row in enumerate(self.run.rows):
            for position, level in enumerate(row.levels):
                if ends := _end_of(level.state, state):
                    self.change_level(index, position, state=ends, progress=None)
            if ends := _end_of(row.state, state):
                self.change_row(index, state=ends, progress=None)
        self.change(state=state, ended_at=time.time())


def _end_of(now: LoadState, run: LoadState) -> LoadState | None:
    """How a part ends with its run; ``None`` where it stays as it is."""
    if now in OVER_STATES or (now is LoadState.QUEUED and run is LoadState.INTERRUPTED):
        return None
    return LoadState.FAILED if run is LoadState.DONE else run
