"""What processes use of the processors: time on them, time spent waiting for one, and switches from one to another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_FORCED = "nonvoluntary_ctxt_switches:"


@dataclass(frozen=True, slots=True)
class Use:
    """Of all threads of a process together, since they began."""

    cpu_s: float
    """User and system."""
    waited_s: float
    """Ready to run, and no processor free: above a few per cent of the time it shares one with somebody."""
    runs: int
    """How often one of its threads was given a processor."""
    forced: int
    """How often one had to give it up before it was done."""

    def since(self, before: Use) -> Use:
        return Use(
            self.cpu_s - before.cpu_s,
            self.waited_s - before.waited_s,
            self.runs - before.runs,
            self.forced - before.forced,
        )

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def use_of(pid: int) -> Use:
    """By the scheduler's own figures, in nanoseconds: the usual ones go by ticks of 4 or 10 ms.

    Raises ``OSError`` where there is no such process, or the kernel has no such figures.
    """
    cpu_ns = waited_ns = runs = forced = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            figures = (task / "schedstat").read_text().split()
            status = (task / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # a thread that has ended just now
            continue
        cpu_ns, waited_ns, runs = cpu_ns + int(figures[0]), waited_ns + int(figures[1]), runs + int(figures[2])
        forced += next(int(line.split()[1]) for line in status.splitlines() if line.startswith(_FORCED))
    return Use(cpu_ns / 1e9, waited_ns / 1e9, runs, forced)


def uses_of(processes: Mapping[str, int]) -> dict[str, Use]:
    """By the names that the caller gives them."""
    return {name: use_of(pid) for name, pid in processes.items()}


def tree_of(pid: int, name: str) -> dict[str, int]:
    """A process and all below it, as ``name``, ``name/VLLM::EngineCor``, …"""
    found = {name: pid}
    for child in psutil.Process(pid).children(recursive=True):
        label = f"{name}/{child.name()}"
        found[label if label not in found else f"{label}-{child.pid}"] = child.pid
    return found


def pin(pid: int, cpus: Iterable[int]) -> None:
    """All threads of the process, and those that they will start, run on these processors only."""
    chosen = set(cpus)
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(task), chosen)
        except ProcessLookupError:
            continue


def cpus_of(text: str) -> set[int]:
    """The processors of "0-3,8". Raises ``ValueError``."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def steal_s() -> float:
    """What the host has taken from this virtual machine's processors since it began."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))
