"""A run's log for those who read files: all its parts as one, what was dropped left out."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, cast

from server_manager.run_log import RunLog


def open_run(path: Path) -> BinaryIO:
    """The log ``NAME.log`` with its older parts before it, as long as it is now. Raises ``OSError``."""
    return cast(BinaryIO, io.BufferedReader(_RunFile(RunLog(path))))


class _RunFile(io.RawIOBase):
    """Positions of the file are those of the run, less the gap that dropped parts have left."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        extent = log.extent()
        self._kept = len(log.read_whole(0, extent.begin)[1])
        self._gap = extent.begin - self._kept
        self._size = extent.end - self._gap
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # io's own stub wants any kind of buffer
        in_start = self._at < self._kept
        end = self._kept if in_start else self._size
        size = min(len(buffer), max(0, end - self._at))
        if size == 0:
            return 0
        data = self._log.read(self._at if in_start else self._at + self._gap, size).data
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
