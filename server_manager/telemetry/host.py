"""The machine's own memory and processor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

from server_manager.telemetry.base import HostSnapshot


class HostProbe:
    """Reads memory and processor with psutil. Not for concurrent calls; the thread may change from call to call.

    In a container (or a systemd unit with ``MemoryMax``) the machine's own figures promise memory that the kernel
    will not give. Where a cgroup v2 limit (``memory.max``) of ours or of a parent is lower than the machine's memory,
    the total is that limit and the used memory is ``memory.current`` less ``inactive_file``, the page cache that is
    dropped first (as ``docker stats`` and Kubernetes count it). A limit of cgroup v1 is not seen.
    """

    def __init__(
        self,
        cgroup_root: Path = Path("/sys/fs/cgroup"),
        membership: Path = Path("/proc/self/cgroup"),
    ) -> None:
        self._cgroups = tuple(_own_cgroups(cgroup_root, membership))
        self._cpu_times = _busy_and_total()

    def read(self) -> HostSnapshot:
        memory = psutil.virtual_memory()
        total, available = int(memory.total), int(memory.available)
        used = total - available
        limits = [limit for folder in self._cgroups if (limit := _cgroup_memory(folder)) is not None]
        if limits and min(limits)[0] < total:
            total, used = min(limits)
            available = min(available, max(0, total - used))
        return HostSnapshot(
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_available_bytes=available,
            cpu_percent=self._cpu_percent(),
            cpu_count=psutil.cpu_count() or 1,
        )

    def _cpu_percent(self) -> float:
        # Not psutil.cpu_percent(): it remembers the previous call per thread, and our calls come from several.
        busy_before, total_before = self._cpu_times
        self._cpu_times = busy, total = _busy_and_total()
        if total <= total_before:
            return 0.0
        return round(min(100.0, max(0.0, 100.0 * (busy - busy_before) / (total - total_before))), 1)


def _busy_and_total() -> tuple[float, float]:
    """Processor seconds since boot over all cores: busy, and altogether."""
    times = psutil.cpu_times()._asdict()
    # Linux counts a guest's time in ``user`` and ``nice`` already.
    total = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
    return total - times["idle"] - times.get("iowait", 0.0), total


def _own_cgroups(root: Path, membership: Path) -> Iterator[Path]:
    """Our cgroup v2 folder and its parents: each may carry a limit. In a container the first is mostly the root."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::/"):
            folder = root / line.removeprefix("0::/")
            yield from (each for each in (folder, *folder.parents) if each.is_relative_to(root))


def _cgroup_memory(folder: Path) -> tuple[int, int] | None:
    """Limit and used memory in bytes; ``None`` where there is no limit."""
    try:
        limit = int((folder / "memory.max").read_text())  # "max" where there is none
        current = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit, max(0, current - int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None
