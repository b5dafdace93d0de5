"""Puts servers to sleep that nobody has used for a while, and stops them after a longer one, where that is set."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from server_manager.errors import ServerManagerError
from server_manager.server_state import ServerState, ServerStatus

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """Of one server, in seconds without use; ``None``: for ever."""

    sleep_after: float | None = None
    stop_after: float | None = None


class Idlers(Protocol):
    """The manager, as far as it is needed here."""

    def statuses(self) -> Mapping[str, ServerStatus]: ...
    def idle_since(self, name: str) -> float | None:
        """Unix time in seconds of its last use; ``None`` while somebody uses it or waits for it."""

    async def sleep(self, name: str, level: int = 1) -> None: ...
    async def end_idle(self, name: str) -> None: ...


class IdleTimer:
    """Looks every ``interval`` seconds. Methods belong to the event loop."""

    def __init__(
        self,
        servers: Idlers,
        patience_of: Callable[[str], Patience],
        interval: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._servers = servers
        self._patience_of = patience_of
        self._interval = interval
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="idle timer")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self.look()

    async def look(self) -> None:
        """Once."""
        for name, status in self._servers.statuses().items():
            with contextlib.suppress(ServerManagerError):  # it is in use again, or somebody else was faster
                await self._look_at(name, status)

    async def _look_at(self, name: str, status: ServerStatus) -> None:
        if status.attached or status.state not in (ServerState.READY, ServerState.ASLEEP):
            return
        used = self._servers.idle_since(name)
        if used is None:
            return
        idle = self._clock() - max(used, status.ready_at or 0.0)
        patience = self._patience_of(name)
        if patience.stop_after is not None and idle >= patience.stop_after:
            log.info("%s was not used for %.0f min: it is stopped.", name, idle / 60)
            await self._servers.end_idle(name)
        elif (
            status.state is ServerState.READY
            and status.sleep is not None
            and patience.sleep_after is not None
            and idle >= patience.sleep_after
        ):
            log.info("%s was not used for %.0f min: it is put to sleep.", name, idle / 60)
            await self._servers.sleep(name)
