"""Tells a start that takes long from one that hangs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_BUSY_CORES = 0.05
"""Waiting processes of vLLM poll, and use about 1 % of a core at that; imports, loading, compiling and downloading use
far more."""
_BUSY_BYTES_PER_S = 64 * 1024
"""Reading weights from the slowest of disks is faster; the polling of processes that wait is far slower."""
_LOOK_S = 2.0
"""Shorter stretches are too grainy for a share of processor time."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What a server's processes have done so far. Whatever differs from one look to the next shows that they work."""

    cpu_seconds: float = 0.0
    io_bytes: int = 0
    """Read and written: weights from a slow network disk use hardly any processor time."""
    download_bytes: int = 0
    gpu_bytes: int = 0


class ProgressWatch:
    """Fails a start only when nothing has moved for long: log, processors, files, download and GPU memory all stand.

    A fixed time limit would have to be longer than the slowest download and the coldest compile.
    """

    def __init__(self, stall_after: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``stall_after`` is in seconds, ``clock`` returns seconds."""
        self._stall_after = stall_after
        self._clock = clock
        self._moved_at = self._log_moved_at = clock()
        self._log_bytes = -1
        self._signs = Signs()
        self._seen_at = clock()
        self.cpu_cores = 0.0
        """Used over the last two seconds or so."""

    @property
    def idle_s(self) -> float:
        """Seconds since something moved."""
        return self._clock() - self._moved_at

    @property
    def log_idle_s(self) -> float:
        """Seconds since the log grew."""
        return self._clock() - self._log_moved_at

    def stalled(self, log_bytes: int, signs: Signs) -> bool:
        """Takes what has been logged and done so far."""
        now = self._clock()
        if (elapsed := now - self._seen_at) >= _LOOK_S:
            if self._moved(signs, elapsed):
                self._moved_at = now
            self._signs, self._seen_at = signs, now
        if log_bytes != self._log_bytes:
            self._log_bytes = log_bytes
            self._moved_at = self._log_moved_at = now
        return self.idle_s > self._stall_after

    def _moved(self, now: Signs, elapsed: float) -> bool:
        before = self._signs
        self.cpu_cores = max(now.cpu_seconds - before.cpu_seconds, 0.0) / elapsed
        return (
            self.cpu_cores > _BUSY_CORES
            or now.io_bytes - before.io_bytes > _BUSY_BYTES_PER_S * elapsed
            or now.download_bytes > before.download_bytes
            or now.gpu_bytes != before.gpu_bytes
        )


def io_bytes(pids: Iterable[int]) -> int:
    """What the processes have read and written so far, in bytes; 0 for those that do not let us look.

    ``rchar`` and ``wchar`` count system calls, ``read_bytes`` what mapped files fetched from their disk: safetensors
    are mapped.
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/io", "rb") as file:
            fields = dict(line.split(b": ") for line in file.read().splitlines())
            total += sum(int(fields[name]) for name in (b"rchar", b"wchar", b"read_bytes") if name in fields)
    return total
