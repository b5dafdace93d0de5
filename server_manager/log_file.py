"""Reading vLLM's log while it grows.

vLLM's output mixes ``\\n``, ``\\r\\n`` (multi-line records, weight progress) and bare ``\\r`` (tqdm bars), may hold
invalid UTF-8 and lines of any length. Everything here works on bytes and decodes last, so that none of it can stop us.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

MAX_LINE_CHARS = 8_192
"""Longer lines are cut: the only known ones list all supported architectures."""
_LINE_BREAK = re.compile(rb"\r\n|\n|\r")
_ANSI_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MAX_READ_BYTES = 512 * 1024
"""At a time: reading the log of an adopted server from its beginning must not hold up the event loop."""
_MAX_TAIL_BYTES = 4 * 1024 * 1024


def split_lines(data: bytes) -> list[str]:
    """Lines as a terminal would show them one after another, empty ones left out."""
    lines = (_ANSI_ESCAPE.sub("", raw.decode("utf-8", "replace")).rstrip() for raw in _LINE_BREAK.split(data))
    return [line[:MAX_LINE_CHARS] for line in lines if line]


class LogFollower:
    """Delivers the lines that have been added since the last call."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        """Bytes read so far; changes exactly when the log does, so it serves as a sign of life too."""
        self._rest = b""

    def read_new(self) -> list[str]:
        """New whole lines. A file that is not there (yet, or any more) has none.

        One that has become shorter is another file, or was emptied, and is read from its beginning.
        """
        try:
            with self.path.open("rb") as log:
                if log.seek(0, os.SEEK_END) < self.offset:
                    self.offset, self._rest = 0, b""
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
    """The last ``count`` lines, read from the end (4 MiB at most); empty where there is no file."""
    if count <= 0:
        return []
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            block = max(64 * 1024, count * 200)
            while True:
                block = min(block, size, _MAX_TAIL_BYTES)
                log.seek(size - block)
                data = log.read(block)
                if block < size and (first := _LINE_BREAK.search(data)):
                    data = data[first.end() :]  # what is before belongs to a line that begins further up
                lines = split_lines(data)
                if len(lines) >= count or block in (size, _MAX_TAIL_BYTES):
                    return lines[-count:]
                block *= 4
    except OSError:
        return []
