"""Reading vLLM's log while it grows.

vLLM's output mixes ``\\n``, ``\\r\\n`` (multi-line records, weight progress) and bare ``\\r`` (tqdm bars), may hold
invalid UTF-8 and lines of any length. Everything here works on bytes and decodes last, so that none of it can stop us.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from server_manager.run_log import RunLog

MAX_LINE_CHARS = 8_192
"""Longer lines are cut: the only known ones list all supported architectures."""
_LINE_BREAK = re.compile(rb"\r\n|\n|\r")
_ANSI_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MAX_READ_BYTES = 512 * 1024
"""At a time: reading the log of an adopted server from its beginning must not hold up the event loop."""
_MAX_TAIL_BYTES = 4 * 1024 * 1024


def split_lines(data: bytes) -> list[str]:
    """Lines as a terminal would show them one after another, empty ones left out."""
    return [line for raw in _LINE_BREAK.split(data) if (line := clean_line(raw))]


def clean_line(raw: bytes) -> str:
    """One line without colours, cut where it is very long."""
    return _ANSI_ESCAPE.sub("", raw.decode("utf-8", "replace")).rstrip()[:MAX_LINE_CHARS]


class LogFollower:
    """Delivers the lines that have been added since the last call, across rotations too."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        """Position in the run up to which it was read; changes exactly when the log does: a sign of life too."""
        self._log = RunLog(path)
        self._rest = b""

    def read_new(self) -> list[str]:
        """New whole lines. A file that is not there (yet, or any more) has none.

        One that has become shorter is another file, or was emptied, and is read from its beginning.
        """
        new = self._read()
        data = self._rest + new
        # A trailing "\r" may be the first half of "\r\n": it is kept for the next call, like any unfinished line.
        end = max(data.rfind(b"\n", 0, len(data)), data.rfind(b"\r", 0, len(data) - 1)) + 1
        whole, self._rest = data[:end], data[end:]
        if len(self._rest) > _MAX_READ_BYTES:
            whole, self._rest = whole + self._rest, b""
        return split_lines(whole)

    def _read(self) -> bytes:
        found = bytearray()
        with contextlib.suppress(OSError):  # no log there
            while len(found) < _MAX_READ_BYTES:
                piece = self._log.read(self.offset, _MAX_READ_BYTES - len(found))
                if piece.end < self.offset:
                    self.offset, self._rest = 0, b""
                    continue
                if not piece.data:
                    break
                if piece.at != self.offset:
                    found += b"\n"  # what would have followed was dropped
                self.offset = piece.at + len(piece.data)
                found += piece.data
        return bytes(found)


def tail(path: Path, count: int) -> list[str]:
    """The last ``count`` lines of the run, read from the end (4 MiB at most); empty where there is no log."""
    if count <= 0:
        return []
    log = RunLog(path)
    try:
        extent = log.extent()
        size = extent.end - extent.begin
        block = max(64 * 1024, count * 200)
        while True:
            block = min(block, size, _MAX_TAIL_BYTES)
            _, data = log.read_whole(extent.end - block, extent.end)
            if block < size and (first := _LINE_BREAK.search(data)):
                data = data[first.end() :]  # what is before belongs to a line that begins further up
            lines = split_lines(data)
            if len(lines) >= count or block in (size, _MAX_TAIL_BYTES):
                return lines[-count:]
            block *= 4
    except OSError:
        return []
