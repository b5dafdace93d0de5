"""Looks at the sizes of the logs every few seconds: rotates those of live servers, and bounds the sum of all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from server_manager.log_rotation import bound_total, rotate
from server_manager.server_state import LIVE_STATES, ServerState, ServerStatus
from server_manager.settings import Settings

log = logging.getLogger(__name__)

_STARTING_FACTOR = 8
"""While a server starts its log may grow so many times longer: phases and causes are read from that part."""


class LogKeeper:
    """One task. What it cannot do, on a full disk, it tries again at its next look."""

    def __init__(
        self, settings: Settings, statuses: Callable[[], Mapping[str, ServerStatus]], notices: list[str]
    ) -> None:
        """``statuses`` is asked on the event loop; ``notices`` gets a sentence as long as a log cannot be rotated."""
        self._settings = settings
        self._statuses = statuses
        self._notices = notices
        self._notice = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins. The first look is at once: logs of an earlier app may be there."""
        self._task = asyncio.create_task(self._run(), name="log keeper")

    async def stop(self) -> None:
        """Ends it, and waits for a rotation that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def look(self) -> None:
        """One look at all logs."""
        states = {name: status.state for name, status in self._statuses().items() if not status.attached}
        live = {name: state for name, state in states.items() if state in LIVE_STATES}
        work = asyncio.ensure_future(asyncio.to_thread(self._tidy, live))
        try:
            problem = await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})  # a thread cannot be cancelled, and must not write when the app has gone
            raise
        self._tell(problem)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # whatever it is: logs must not go unwatched from here on
                log.exception("looking after the logs failed")
            await asyncio.sleep(self._settings.log_interval)

    def _tidy(self, live: Mapping[str, ServerState]) -> str:
        """In a thread. What went wrong, as a sentence, or nothing."""
        problem = ""
        for name, state in live.items():
            path = self._settings.logs_dir / f"{name}.log"
            limit = self._settings.log_part_bytes * (_STARTING_FACTOR if state is ServerState.STARTING else 1)
            try:
                if _size(path) > limit and (moved := rotate(path)):
                    log.info("rotated %s: %d bytes", path.name, moved)
            except OSError as error:
                problem = f"The log {path} cannot be rotated: {error.strerror or error}. It goes on growing."
        for path in bound_total(self._settings.logs_dir, self._settings.logs_total_bytes, live.keys()):
            log.info("removed %s: the logs take more than %d bytes", path.name, self._settings.logs_total_bytes)
        return problem

    def _tell(self, problem: str) -> None:
        """Once for as long as it lasts."""
        if problem and not self._notice:
            log.warning("%s", problem)
            self._notices.append(problem)
            self._notice = problem
        elif not problem and self._notice:
            with contextlib.suppress(ValueError):
                self._notices.remove(self._notice)
            self._notice = ""


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
