"""The wish that a server's life should end, and waiting for anything else no longer than until it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from server_manager.errors import StartAborted

T = TypeVar("T")


class StopRequested(Exception):
    """Raised inside a life when somebody asked for its end."""


class StopRequest:
    """One for each life. Once asked it stays so."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.asked_at = 0.0
        """``time.monotonic()`` of the first request."""

    @property
    def asked(self) -> bool:
        """Whether somebody has asked."""
        return self._event.is_set()

    def ask(self) -> None:
        """The first request counts; further ones change nothing."""
        if not self.asked:
            self.asked_at = time.monotonic()
            self._event.set()

    async def wait(self) -> None:
        """Until somebody asks."""
        await self._event.wait()

    async def unless_asked(self, work: Awaitable[T]) -> T:
        """The result of ``work``, or ``StopRequested`` (and ``work`` cancelled) as soon as a stop is asked for."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise StopRequested
            if task.cancelled():  # by somebody else: our own cancellation must stay distinguishable from this
                raise StartAborted("What the start was waiting for was cancelled.", "Start it again.")
            return task.result()
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled():
                    task.exception()  # looked at, so that asyncio does not report it: the stop is what counts
