"""Blocking calls that may hang, made from the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from server_manager.daemon_call import in_daemon_thread
from server_manager.errors import TelemetryError

logger = logging.getLogger(__name__)
T = TypeVar("T")


class OneAtATime(Generic[T]):
    """Calls a blocking function in a daemon thread and gives up waiting, but never calls it twice at once."""

    def __init__(self, what: str, function: Callable[[], T], timeout: float, clock: Callable[[], float]) -> None:
        self._what = what
        self._function = function
        self._timeout = timeout
        self._clock = clock
        self._started = 0.0
        self._pending: asyncio.Future[T | TelemetryError] | None = None

    async def __call__(self) -> T:
        """What the function returns. Raises ``TelemetryError`` where it raises, or does not return in time."""
        if self._pending is None:
            self._started = self._clock()
            self._pending = in_daemon_thread("telemetry", self._call)
        if not await self.idle(self._started + self._timeout - self._clock()):
            seconds = int(self._clock() - self._started)
            raise TelemetryError(f"{self._what} has not answered for {seconds} s.", seconds=seconds)
        result = self._pending.result()
        self._pending = None
        if isinstance(result, TelemetryError):
            raise result
        return result

    async def idle(self, timeout: float) -> bool:
        """Waits until no call is under way; whether that is so."""
        if self._pending is not None:
            await asyncio.wait({self._pending}, timeout=max(0.0, timeout))
        return self._pending is None or self._pending.done()

    def _call(self) -> T | TelemetryError:
        """An error as a value: nobody may be left to take it."""
        try:
            return self._function()
        except TelemetryError as error:
            return error
        except Exception as error:  # a vendor's library may raise anything; the page must say so
            logger.debug("A telemetry source raised.", exc_info=True)
            return TelemetryError(f"{self._what} cannot be read: {type(error).__name__}: {error}.")
