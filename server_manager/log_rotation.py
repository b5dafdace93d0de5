"""Keeps logs from growing without end: rotation by size, the run before, a limit for all of them.

vLLM itself appends to the file (``O_APPEND``), so it cannot be renamed away: its content is copied to ``NAME.log.1``
and cut off at the front. On ext4 and XFS the cut is one step of the kernel (``FALLOC_FL_COLLAPSE_RANGE``) between two
writes of vLLM, and nothing is lost. Elsewhere the file is emptied in the moment in which all of it has been copied:
what vLLM writes in these few microseconds is lost, which nobody can prevent who is not the writer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from server_manager.run_log import (
    KEPT_PARTS,
    dropped_note,
    locked,
    part_path,
    previous_path,
    read_start,
    start_path,
)

START_BYTES = 2**20
"""Kept of the beginning of every run: it tells the flags, the memory and the version."""
_COPY_BYTES = 2**20
_COLLAPSE_RANGE = 0x08
_LOG_FILE = re.compile(r"(?P<name>.+)\.log(?P<previous>\.prev)?(?P<part>\.\d|\.start|\.new)?")


def rotate(path: Path) -> int:
    """Moves what is in the log to ``NAME.log.1``; the bytes that were moved, at least one block of the disk.

    Raises ``OSError``, for example on a full disk; the log is as it was then, less its oldest part at the worst.
    """
    draft = Path(f"{path}.new")
    try:
        with path.open("r+b", buffering=0) as log, draft.open("wb", buffering=0) as part:
            os.fchmod(part.fileno(), 0o600)
            # Nobody has to wait for this. The second line spares the kernel from writing while it holds vLLM up.
            copied = _copy(log, part, 0, os.fstat(log.fileno()).st_size)
            os.fdatasync(log.fileno())
            with locked(log, exclusive=True):
                block = os.fstatvfs(log.fileno()).f_bsize
                whole = (copied - 1) // block * block  # the kernel removes whole blocks, and never all of a file
                if whole <= 0 or not os.path.samestat(os.fstat(log.fileno()), path.stat()):
                    return 0  # the second: a new run has begun meanwhile
                part.truncate(whole)
                _shift(path, draft)
                if _collapse(log.fileno(), whole):
                    return whole
                return _empty(log, part, whole)
    finally:
        draft.unlink(missing_ok=True)


def set_aside(path: Path) -> None:
    """Makes the log, with its older parts, that of the previous run, in place of the one that is there.

    Raises ``OSError``. A link is left alone: it was not us who made it.
    """
    previous = previous_path(path)
    if not path.is_file() or path.is_symlink():
        return
    with path.open("r+b") as log, locked(log, exclusive=True):  # a rotation may be under way
        for old in _older_parts(previous):
            old.unlink(missing_ok=True)
        for part in _older_parts(path):
            if part.exists():
                part.replace(f"{previous}{part.name.removeprefix(path.name)}")
        path.replace(previous)


def bound_total(folder: Path, most_bytes: int, live: Collection[str]) -> list[Path]:
    """Removes logs until all of them take ``most_bytes`` at most: those of models that were not used for longest first.

    Of servers that are up (``live``) only the previous runs go. Returns what was removed. Raises nothing.
    """
    runs = _runs(folder)
    total = sum(run.size_bytes for run in runs)
    removed: list[Path] = []
    for run in sorted(runs, key=lambda run: (run.name in live, run.written_at)):
        if total <= most_bytes:
            break
        if run.name in live and not run.previous:
            continue
        for path in run.files:
            with contextlib.suppress(OSError):  # gone already, or not ours to remove
                path.unlink()
                removed.append(path)
        total -= run.size_bytes
    return removed


def _copy(log: IO[bytes], part: IO[bytes], position: int, end: int | None = None) -> int:
    """Copies from ``position`` up to ``end``, by default as long as anything comes; how far it came."""
    log.seek(position)
    part.seek(position)
    while data := log.read(_COPY_BYTES if end is None else min(_COPY_BYTES, end - position)):
        view = memoryview(data)
        while view:
            view = view[part.write(view) :]
        position += len(data)
    return position


def _empty(log: IO[bytes], part: IO[bytes], whole: int) -> int:
    """The cut where the file system has no better one; the bytes that were moved."""
    try:
        moved = _copy(log, part, whole)
        log.truncate(0)
    except OSError:
        part.truncate(0)  # else the same lines would stand in two parts
        raise
    return moved


def _collapse(descriptor: int, size: int) -> bool:
    """Removes the first bytes of a file between two writes of others; false where the file system cannot (tmpfs, …)."""
    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):  # a C library without it
        return False
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
    return bool(fallocate(descriptor, _COLLAPSE_RANGE, 0, size) == 0)


def _shift(path: Path, draft: Path) -> None:
    oldest = part_path(path, KEPT_PARTS)
    if oldest.exists():
        _keep_start(path, oldest)
        oldest.unlink()
    for number in range(KEPT_PARTS - 1, 0, -1):
        if part_path(path, number).exists():
            part_path(path, number).replace(part_path(path, number + 1))
    draft.replace(part_path(path, 1))


def _keep_start(path: Path, oldest: Path) -> None:
    """Before the oldest part is dropped: the beginning of the run stays, and a note how much is missing."""
    size = oldest.stat().st_size
    if before := read_start(path):
        kept, dropped = before[0], before[1] + size
    else:
        with oldest.open("rb") as log:
            kept, dropped = log.read(min(START_BYTES, size // 2)), size
        kept = kept[: kept.rfind(b"\n") + 1]
    draft = Path(f"{path}.new-start")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as start:
            start.write(kept + dropped_note(dropped))
        draft.replace(start_path(path))
    finally:
        draft.unlink(missing_ok=True)


def _older_parts(path: Path) -> list[Path]:
    return [start_path(path), *(part_path(path, number) for number in range(1, KEPT_PARTS + 1))]


@dataclass(slots=True)
class _Run:
    """The files of one run."""

    name: str
    previous: bool
    files: list[Path] = field(default_factory=list)
    size_bytes: int = 0
    written_at: float = 0.0


def _runs(folder: Path) -> list[_Run]:
    found: dict[tuple[str, bool], _Run] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:  # no folder: no logs
        for entry in entries:
            match = _LOG_FILE.fullmatch(entry.name)
            if match is None or not entry.is_file(follow_symlinks=False):
                continue
            previous = match["previous"] is not None
            run = found.setdefault((match["name"], previous), _Run(match["name"], previous))
            stat = entry.stat()
            run.files.append(Path(entry.path))
            run.size_bytes += stat.st_size
            run.written_at = max(run.written_at, stat.st_mtime)
    return list(found.values())
