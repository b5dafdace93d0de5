"""vLLM's own figures of every ready server: requests running and waiting, tokens per second."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from server_manager.errors import ServerManagerError
from server_manager.manager import Server, ServerManager
from server_manager.server_state import ServerState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """One look at ``/metrics``, with the rate since the look before."""

    num_requests_running: int | None
    num_requests_waiting: int | None
    kv_cache_usage_perc: float | None
    """0 to 1."""
    tokens_per_second: float | None
    """Generated tokens of all requests, averaged since the previous look; ``None`` at the first."""


class MetricsPoller:
    """Asks every ready server each ``interval`` seconds; ``latest`` has the figures of those that answered."""

    def __init__(self, manager: ServerManager, interval: float = 2.0) -> None:
        self._manager = manager
        self._interval = interval
        self._totals: dict[str, tuple[float, float]] = {}
        self._task: asyncio.Task[None] | None = None
        self.latest: dict[str, ServerFigures] = {}

    def start(self) -> None:
        """Begins to ask, on the current event loop."""
        self._task = asyncio.create_task(self._run(), name="metrics poller")

    async def stop(self) -> None:
        """Ends the asking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:  # whatever it is, the page needs the figures of the next look
                logger.exception("One look at the figures of the servers failed.")
            await asyncio.sleep(self._interval)

    async def _look(self) -> None:
        ready = [
            self._manager.server(name)
            for name, status in self._manager.statuses().items()
            if status.state is ServerState.READY
        ]
        found = await asyncio.gather(*map(self._ask, ready))
        self.latest = {name: figures for name, figures in found if figures is not None}
        self._totals = {name: total for name, total in self._totals.items() if name in self.latest}

    async def _ask(self, server: Server) -> tuple[str, ServerFigures | None]:
        try:
            metrics = await server.client().metrics()
        except (ServerManagerError, ValueError):  # stopped in this very moment, or its figures are no numbers
            metrics = None
        if metrics is None:
            return server.name, None
        now, total = time.monotonic(), metrics.generation_tokens_total
        rate = None
        if total is not None:
            before = self._totals.get(server.name)
            self._totals[server.name] = (now, total)
            # A total that shrinks is that of a new start.
            if before is not None and total >= before[1]:
                rate = (total - before[1]) / (now - before[0])
        return server.name, ServerFigures(
            metrics.num_requests_running, metrics.num_requests_waiting, metrics.kv_cache_usage_perc, rate
        )
