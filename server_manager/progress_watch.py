"""Tells a start that takes long from one that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable

_BUSY_CORES = 0.05
"""Waiting processes of vLLM poll, and use about 1 % of a core at that; imports, loading, compiling and downloading use
far more."""


class ProgressWatch:
    """Fails a start only when nothing has moved for long: neither the log nor the processors.

    A fixed time limit would have to be longer than the slowest download and the coldest compile.
    """

    def __init__(self, stall_after: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``stall_after`` is in seconds, ``clock`` returns seconds."""
        self._stall_after = stall_after
        self._clock = clock
        self._moved_at = clock()
        self._log_bytes = -1
        self._cpu_seconds = 0.0
        self._cpu_seen_at = clock()

    @property
    def idle_s(self) -> float:
        """Seconds since something moved."""
        return self._clock() - self._moved_at

    def stalled(self, log_bytes: int, cpu_seconds: float) -> bool:
        """Takes what has been logged and computed so far, in bytes and seconds of processor time."""
        now = self._clock()
        elapsed = now - self._cpu_seen_at
        # Over 2 s at least: shorter stretches are too grainy for a share of processor time.
        if elapsed >= 2.0:
            if cpu_seconds - self._cpu_seconds > _BUSY_CORES * elapsed:
                self._moved_at = now
            self._cpu_seconds, self._cpu_seen_at = cpu_seconds, now
        if log_bytes != self._log_bytes:
            self._log_bytes = log_bytes
            self._moved_at = now
        return self.idle_s > self._stall_after
