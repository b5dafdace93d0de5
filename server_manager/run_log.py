"""The log of one run as a single stream of bytes, however many files rotation has made of it.

    NAME.log.start   the first MiB of the run, once the part that held it was dropped; says how much is missing
    NAME.log.3 … .1  older parts, the oldest first
    NAME.log         what vLLM appends to

A *position* counts the bytes since the beginning of the run. It stays right across rotations, so whoever has read up
to one goes on from there and neither misses a line nor sees one twice. The run before is kept in the same way as
``NAME.log.prev``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

KEPT_PARTS = 3
_DROPPED = re.compile(rb"\[vLLM Deck dropped what stood here, up to byte (\d+) of this run, to save space\]\n\Z")
_NOTE_BYTES = 200
_ID_BYTES = 256


def part_path(path: Path, number: int) -> Path:
    """A part that was rotated out; 1 is the newest."""
    return Path(f"{path}.{number}")


def start_path(path: Path) -> Path:
    """What is kept of the beginning of a run whose first part was dropped."""
    return Path(f"{path}.start")


def previous_path(path: Path) -> Path:
    """The log of the run before."""
    return Path(f"{path}.prev")


def dropped_note(position: int) -> bytes:
    """The last line of ``NAME.log.start``: for the reader, and for ``RunLog`` to know where the next part begins."""
    return f"[vLLM Deck dropped what stood here, up to byte {position} of this run, to save space]\n".encode()


def read_start(path: Path) -> tuple[bytes, int] | None:
    """What is kept of the beginning, without the note, and the position of the next part; ``None`` without any."""
    try:
        content = start_path(path).read_bytes()
    except OSError:
        return None
    note = _DROPPED.search(content, max(0, len(content) - _NOTE_BYTES))
    return (content[: note.start()], int(note[1])) if note else (content, len(content))


@contextlib.contextmanager
def locked(log: IO[bytes], *, exclusive: bool) -> Iterator[None]:
    """Readers share the lock, rotation has it alone, for some milliseconds. What vLLM writes knows of no lock."""
    fcntl.flock(log, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
    try:
        yield
    finally:
        # Closing would not do: a process that is being started at this moment may hold a copy of the descriptor.
        fcntl.flock(log, fcntl.LOCK_UN)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a run."""

    at: int
    """Position of the first of them: further on than asked for where those bytes were dropped."""
    data: bytes
    end: int
    """Position behind the last byte that the log has."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What there is of a run."""

    run: str
    """Tells this run from the ones before and after it under the same name; the same once it is the previous one."""
    begin: int
    """From this position on nothing is missing; more than 0 where parts were dropped."""
    end: int
    """Position behind the last byte; also how many bytes the run has logged."""
    written_at: float
    """Of the last byte, Unix time in seconds."""


@dataclass(frozen=True, slots=True)
class _Part:
    path: Path
    begin: int
    end: int


class RunLog:
    """Reads a run's log. Safe beside a rotation in another thread; every method may raise no error but ``OSError``."""

    def __init__(self, path: Path) -> None:
        """``path`` is that of the newest part, ``NAME.log`` or ``NAME.log.prev``."""
        self.path = path

    def read(self, position: int, size: int) -> Piece:
        """Up to ``size`` bytes from there on; none at the end. Raises ``OSError`` where there is no log."""
        with self.path.open("rb") as live, locked(live, exclusive=False):
            parts = self._parts(live)
            end = parts[-1].end
            for part in parts:
                if position < part.end:
                    at = max(position, part.begin)
                    return Piece(at, _read(part, live, at, min(size, part.end - at)), end)
            return Piece(position, b"", end)

    def extent(self) -> Extent:
        """Raises ``OSError`` where there is no log."""
        with self.path.open("rb") as live, locked(live, exclusive=False):
            parts = self._parts(live)
            first = parts[0]
            stat = os.fstat(live.fileno())
            # A run's file is made while that of the run before still exists: the two cannot have the same inode.
            beginning = _read(first, live, first.begin, min(_ID_BYTES, first.end - first.begin)).split(b"\n")[0]
            run = f"{stat.st_ino:x}.{zlib.crc32(beginning):x}"
            begin = 0 if first.path != start_path(self.path) else (parts[1].begin if len(parts) > 1 else 0)
            return Extent(run, begin, parts[-1].end, stat.st_mtime)

    def read_whole(self, begin: int, end: int) -> tuple[int, bytes]:
        """The bytes between two positions and where they begin, up to the first that were dropped from among them.

        Raises ``OSError``.
        """
        found = bytearray()
        at = begin
        while at < end:
            piece = self.read(at, end - at)
            if not piece.data or (found and piece.at != at):
                break
            if not found:
                begin = piece.at
            found += piece.data
            at = piece.at + len(piece.data)
        return begin, bytes(found)

    def _parts(self, live: IO[bytes]) -> list[_Part]:
        """Oldest first; the last one is the file that grows. To be called with the lock."""
        found: list[_Part] = []
        position = 0
        if start := read_start(self.path):
            kept, position = start
            size = len(kept) + len(dropped_note(position))
            found.append(_Part(start_path(self.path), 0, min(size, position)))
        for number in range(KEPT_PARTS, 0, -1):
            path = part_path(self.path, number)
            try:
                size = path.stat().st_size
            except OSError:
                continue
            found.append(_Part(path, position, position + size))
            position += size
        found.append(_Part(self.path, position, position + os.fstat(live.fileno()).st_size))
        return found


def _read(part: _Part, live: IO[bytes], at: int, size: int) -> bytes:
    if part.path == Path(live.name):
        live.seek(at - part.begin)
        return live.read(size)
    with part.path.open("rb") as log:
        log.seek(at - part.begin)
        return log.read(size)
