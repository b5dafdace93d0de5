"""Reading vLLM's log while it grows.

vLLM's output mixes ``\\n``, ``\\r\\n`` (multi-line records, weight progress) and bare ``\\r`` (tqdm bars), may hold
invalid UTF-8 and lines of any length. Everything here works on bytes and decodes last, so that none of it can stop us.
"""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

MAX_LINE_CHARS = 8_192
"""Longer lines are cut: the only known ones list all supported architectures."""
_LINE_BREAK = re.compile(rb"\r\n|\n|\r")
_ANSI_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MAX_READ_BYTES = 4 * 1024 * 1024


def split_lines(data: bytes) -> list[str]:
    """Lines as a terminal would show them one after another, empty ones left out."""
    lines = (_ANSI_ESCAPE.sub("", raw.decode("utf-8", "replace")).rstrip() for raw in _LINE_BREAK.split(data))
    return [line[:MAX_LINE_CHARS] for line in lines if line]


class LogFollower:
    """Delivers the lines that have been added since the last call."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        """Bytes read so far; grows exactly when the log grows, so it serves as a sign of life too."""
        self._rest = b""

    def read_new(self) -> list[str]:
        """New whole lines. A file that is not there (yet, or any more) has none."""
        try:
            with self.path.open("rb") as log:
                log.seek(self.offset)
                data = log.read(_MAX_READ_BYTES)
        except OSError:
            return []
        self.offset += len(data)
        data = self._rest + data
        # A trailing "\r" may be the first half of "\r\n": it is kept for the next call, like any unfinished line.
        end = max(data.rfind(b"\n", 0, len(data)), data.rfind(b"\r", 0, len(data) - 1)) + 1
        whole, self._rest = data[:end], data[end:]
        if len(self._rest) > _MAX_READ_BYTES:
            whole, self._rest = whole + self._rest, b""
        return split_lines(whole)


def tail(path: Path, count: int) -> list[str]:
    """The last ``count`` lines, read from the end; empty where there is no file."""
    wanted: deque[str] = deque(maxlen=max(count, 0))
    block = min(_MAX_READ_BYTES, max(64 * 1024, count * 400))
    try:
        with path.open("rb") as log:
            size = log.seek(0, 2)
            start = max(0, size - block)
            log.seek(start)
            data = log.read(block)
    except OSError:
        return []
    lines = split_lines(data)
    wanted.extend(lines[1:] if start and len(lines) > 1 else lines)
    return list(wanted)
