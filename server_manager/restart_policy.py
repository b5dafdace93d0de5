"""Starts a crashed server again: later each time, and not for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from server_manager.server_state import ExitCause, Restart, ServerExit

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0
STABLE_SECONDS = 600.0
"""A server that served for so long has recovered: the next crash counts as the first."""


def delay_of(attempt: int) -> float:
    """Seconds before the attempt: 1, 2, 4, … up to a minute."""
    return float(min(FIRST_DELAY_SECONDS * 2 ** (attempt - 1), LONGEST_DELAY_SECONDS))


class Restarter:
    """Counts the crashes of one server. All methods belong to the event loop's thread."""

    def __init__(self, limit: Callable[[], int], start: Callable[[], object]) -> None:
        """``limit`` says how many starts in a row may be tried (0: none), ``start`` begins one."""
        self._limit = limit
        self._start = start
        self._attempts = 0
        self._waiting: asyncio.TimerHandle | None = None

    def after(self, end: ServerExit, *, served_seconds: float) -> Restart | None:
        """What follows the end of a life: the start that was set off, the news that it is given up, or nothing.

        After a crash, and after a start of ours that failed because the cause of the crash was still there.
        """
        self.cancel()
        if served_seconds >= STABLE_SECONDS:
            self._attempts = 0
        again = end.cause is ExitCause.CRASHED or (self._attempts > 0 and end.cause is not ExitCause.STOPPED)
        limit = self._limit() if again else 0
        if self._attempts >= limit:
            self._attempts = 0
            return Restart(limit, limit, None) if limit else None
        self._attempts += 1
        delay = delay_of(self._attempts)
        self._waiting = asyncio.get_running_loop().call_later(delay, self._start)
        return Restart(self._attempts, limit, time.time() + delay)

    def cancel(self) -> bool:
        """Calls off the start that is waited for; whether there was one."""
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return False
        due = not waiting.cancelled() and waiting.when() > asyncio.get_running_loop().time()
        waiting.cancel()
        return due

    def asked_for(self) -> None:
        """Somebody started or stopped the server: whatever it does now begins anew."""
        self.cancel()
        self._attempts = 0
