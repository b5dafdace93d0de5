"""What a server holds its memory for, read from vLLM's own log lines.

NVML tells how much a process holds, only vLLM tells for what. Its lines round to hundredths of a GiB, and most of them
are written by the first worker of a node alone (vLLM's ``info_once``): the others of a tensor-parallel group hold the
same. The wordings are those of vLLM 0.25 to 0.32, of both model runners and of the CPU worker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from server_manager.start_phase import strip_prefix

_GIB = 1 << 30
_PROCESS = re.compile(r"^\((?P<label>[^()]+?) pid=(?P<pid>\d+)\) ")
_NUMBER = r"(-?[\d.]+)"
_FIELDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    # The words "memory" and "and" come and go between versions and runners.
    ("weights_bytes", re.compile(rf"^Model loading took {_NUMBER} GiB(?: memory)? and")),
    ("kv_cache_bytes", re.compile(rf"^Available KV cache memory: {_NUMBER} GiB")),
    ("kv_cache_bytes", re.compile(rf"reserved {_NUMBER} GiB memory for KV Cache as specified")),
    ("kv_cache_bytes", re.compile(rf"Current kv cache memory in use is {_NUMBER} GiB")),
    ("kv_cache_bytes", re.compile(rf"^(?:Explicitly|Auto) set \({_NUMBER}/[\d.]+\) GiB for KV cache")),
    ("cuda_graph_bytes", re.compile(rf"^Graph capturing finished in \d+ secs, took {_NUMBER} GiB")),
)
_CHECKPOINT = re.compile(rf"Checkpoint size: {_NUMBER} GiB")
_WORLD = re.compile(r"^world_size=(\d+) rank=\d+")
_TOKENS = re.compile(r"^([A-Z]+)(?: \+ host)? KV cache size: ([\d,]+) tokens")
_CPU_WORKER = re.compile(r"^(?:Explicitly|Auto) set \(")


@dataclass(frozen=True, slots=True)
class RankMemory:
    """What one worker said of its own memory; ``None`` for what it did not say."""

    pid: int | None
    """As it wrote it in front of its lines."""
    weights_bytes: int | None = None
    kv_cache_bytes: int | None = None
    cuda_graph_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """What a server's log has said so far."""

    ranks: tuple[RankMemory, ...] = ()
    """In the order in which they first spoke; those that said nothing are missing."""
    kv_cache_tokens: int | None = None
    """How many tokens the cache can hold, over all data-parallel engines."""
    checkpoint_bytes: int | None = None
    """Size of the weights on disk, of all ranks together."""
    world_size: int = 1
    """Over how many workers each engine is split."""
    on_cpu: bool = False
    """Whether weights and cache are in the machine's memory and not on a GPU."""

    def rank_of(self, pid: int | None) -> tuple[RankMemory | None, bool]:
        """What the worker of this pid holds, and whether it said all of that itself.

        What it did not say is taken from the first that did (tensor parallelism splits evenly), or for the weights from
        their size on disk.
        """
        own = next((rank for rank in self.ranks if rank.pid == pid), RankMemory(pid))
        if self.world_size == 1 and len(self.ranks) == 1:
            own = self.ranks[0]  # there is no other; its lines may come without a pid
        filled = own
        for name in ("weights_bytes", "kv_cache_bytes", "cuda_graph_bytes"):
            said = (value for rank in self.ranks if (value := getattr(rank, name)) is not None)
            if getattr(own, name) is None and (first := next(said, None)) is not None:
                filled = replace(filled, **{name: first})
        if filled.weights_bytes is None and self.checkpoint_bytes is not None:
            filled = replace(filled, weights_bytes=self.checkpoint_bytes // max(1, self.world_size))
        if filled.weights_bytes is None and filled.kv_cache_bytes is None:
            return None, False
        return filled, filled == own

    @property
    def weights_total_bytes(self) -> int | None:
        """Of all ranks; their size on disk where no rank has said it (vLLM on the CPU does not)."""
        return self._total("weights_bytes", self.checkpoint_bytes)

    @property
    def kv_cache_total_bytes(self) -> int | None:
        """Of all ranks."""
        return self._total("kv_cache_bytes", None)

    def _total(self, field: str, otherwise: int | None) -> int | None:
        said: list[int] = [value for rank in self.ranks if (value := getattr(rank, field)) is not None]
        if not said:
            return otherwise
        return sum(said) + said[0] * max(0, self.world_size - len(said))


class MemoryReader:
    """Collects the parts while a log is read. The last word counts: a server that reloads says it again."""

    def __init__(self, on_change: Callable[[MemoryParts], object] = lambda parts: None) -> None:
        self.parts: MemoryParts | None = None
        self._on_change = on_change
        self._tokens: dict[int | None, int] = {}

    def take(self, lines: Iterable[str]) -> None:
        """Takes further lines, and tells ``on_change`` once if they told anything new."""
        before = self.parts
        for line in lines:
            # Nearly every line is something else: one cheap look spares it the expressions.
            if "GiB" in line or "KV cache size" in line or "world_size=" in line:
                self._take(line)
        if self.parts is not None and self.parts != before:
            self._on_change(self.parts)

    def _take(self, line: str) -> None:
        process = _PROCESS.match(line)
        pid = int(process["pid"]) if process else None
        text = strip_prefix(line)
        parts = self.parts or MemoryParts()
        if found := _TOKENS.match(text):
            self._tokens[pid] = int(found[2].replace(",", ""))
            parts = replace(parts, kv_cache_tokens=sum(self._tokens.values()), on_cpu=parts.on_cpu or found[1] == "CPU")
        elif found := _WORLD.match(text):
            parts = replace(parts, world_size=int(found[1]))
        elif found := _CHECKPOINT.search(text):
            # A draft model has a checkpoint too, the smaller one.
            parts = replace(parts, checkpoint_bytes=max(parts.checkpoint_bytes or 0, _bytes(found[1])) or None)
        else:
            for name, pattern in _FIELDS:
                if found := pattern.search(text):
                    on_cpu = parts.on_cpu or _CPU_WORKER.match(text) is not None
                    parts = replace(parts, ranks=_with(parts.ranks, pid, name, _bytes(found[1])), on_cpu=on_cpu)
        if parts != MemoryParts():
            self.parts = parts


def _bytes(gib: str) -> int:
    """vLLM's own profiling can come out below nothing; nobody holds less than that."""
    try:
        return max(0, round(float(gib) * _GIB))
    except ValueError:  # "1.2.3": not a line of vLLM
        return 0


def _with(ranks: tuple[RankMemory, ...], pid: int | None, name: str, value: int) -> tuple[RankMemory, ...]:
    if not any(rank.pid == pid for rank in ranks):
        ranks = (*ranks, RankMemory(pid))
    return tuple(replace(rank, **{name: value}) if rank.pid == pid else rank for rank in ranks)
