"""How far the download of a model's files has come.

vLLM downloads without a word (it hands the hub's package a silent progress bar), so we look at the folder into which
the files go. No request is made: the whole size is known only once the index of the weights is there.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_RATE_WINDOW_S = 6.0
"""A download comes in bursts: several files at a time, each written in blocks of 10 MB."""
_INDEX = "model.safetensors.index.json"
_PARTIAL_SUFFIX = ".incomplete"
_MAX_FILES = 5_000
"""Of a model's folder: more are no model's, and would make each look slow."""


@dataclass(frozen=True, slots=True)
class Download:
    """A download at one moment."""

    bytes_there: int
    """On the disk, of this model, with what was there before this start."""
    bytes_fetched: int
    """Of these, since this start."""
    bytes_per_s: float
    """Over the last seconds."""
    total_bytes: int | None
    """Of all the weights; ``None`` where it cannot be known without asking the hub."""

    @property
    def eta_s(self) -> float | None:
        """Seconds until all is there at the present rate."""
        if self.total_bytes is None or self.bytes_per_s <= 0:
            return None
        return max(self.total_bytes - self.bytes_there, 0) / self.bytes_per_s

    def __str__(self) -> str:
        there = size(self.bytes_there)
        if self.total_bytes and self.total_bytes >= self.bytes_there:
            there = f"{there} / {size(self.total_bytes)}"
        return f"{there}, {size(self.bytes_per_s)}/s"


def size(count: float) -> str:
    """Bytes as hubs give them: "3.2 GB", "45 MB" (decimal units)."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


class DownloadWatch:
    """Looks into the folders in which a model's files may appear. Blocking: call it in a thread."""

    def __init__(self, folders: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` returns seconds."""
        self._folders = tuple(folders)
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self._at_start: int | None = None

    def read(self) -> Download | None:
        """What is there now, or ``None`` as long as nothing has come since the first look."""
        there, now = bytes_in(self._folders), self._clock()
        if self._at_start is None:
            self._at_start = there
        self._seen.append((now, there))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _RATE_WINDOW_S:
            self._seen.popleft()
        if there <= self._at_start:
            return None
        then, before = self._seen[0]
        rate = max(there - before, 0) / (now - then) if now > then else 0.0
        return Download(there, there - self._at_start, rate, weights_bytes(self._folders))


def bytes_in(folders: Sequence[Path]) -> int:
    """What the files in the folders take; links, as the snapshots of Hugging Face's cache have them, count once."""
    total = 0
    for index, entry in enumerate(_files(folders)):
        if index >= _MAX_FILES:
            break
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:  # renamed or removed this moment
            continue
        # A file may be made in its full size at once and filled later: what is not there yet takes no blocks.
        partial = entry.name.endswith(_PARTIAL_SUFFIX)
        total += min(found.st_size, found.st_blocks * 512) if partial else found.st_size
    return total


def weights_bytes(folders: Sequence[Path]) -> int | None:
    """The size of all weights by their index, where that is there already (models of one file have none)."""
    for folder in folders:
        for index in (*folder.glob(f"snapshots/*/{_INDEX}"), folder / _INDEX):
            try:
                found = json.loads(index.read_bytes())["metadata"]["total_size"]
            except (OSError, ValueError, KeyError, TypeError):  # not there yet, or half written
                continue
            if isinstance(found, int | float) and found > 0:
                return int(found)
    return None


def _files(folders: Sequence[Path]) -> Iterator[os.DirEntry[str]]:
    """The regular files below the folders; what cannot be read is passed over."""
    waiting = [str(folder) for folder in folders]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        yield entry
        except OSError:  # not made yet, or not ours
            continue
