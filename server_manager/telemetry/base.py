"""What a telemetry source delivers: one reading of every device.

Names and units are NVML's where NVML has one. A figure that is not known is ``None``, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

UNACCOUNTED_BYTES = 1 << 30
"""More used memory than this without a listed process: the driver hides processes from us (a container)."""


@dataclass(frozen=True, slots=True)
class DeviceProcess:
    """A process that holds memory on a device."""

    pid: int
    """As the driver reports it: in a container without the host's pid namespace it may match nothing here."""
    used_gpu_memory_bytes: int | None
    """``None`` where the driver hides it (MIG, WSL, missing permission)."""
    name: str | None
    """What the operating system calls it; ``None`` where it cannot be seen."""
    user: str | None = None
    """Who runs it; ``None`` where it cannot be seen."""
    started_at: float | None = None
    """Unix time in seconds; likewise."""


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """One reading of one accelerator."""

    index: int
    uuid: str | None
    name: str | None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    """Kept by driver and firmware; with it the parts make up the total. ``None`` where the driver counts it as used."""
    utilization_gpu_percent: int | None = None
    temperature_gpu_celsius: int | None = None
    power_usage_milliwatts: int | None = None
    power_limit_milliwatts: int | None = None
    processes: tuple[DeviceProcess, ...] | None = None
    """``None`` where the driver does not list processes; empty where it lists none."""
    error: str | None = None
    """Why this device gives no figures (lost from the bus, …), in words for a person."""

    @property
    def is_accounted_for(self) -> bool:
        """Whether the processes that the driver lists explain all that is used: then nothing hidden holds memory."""
        if self.processes is None or self.memory_used_bytes is None:
            return False
        named = [process.used_gpu_memory_bytes for process in self.processes]
        known = sum(used for used in named if used is not None)
        return None not in named and self.memory_used_bytes - known < UNACCOUNTED_BYTES


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """The machine's own memory and processor."""

    memory_total_bytes: int
    memory_used_bytes: int
    memory_available_bytes: int
    cpu_percent: float
    """Over all cores since the previous reading, 0 to 100."""
    cpu_count: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What one pass of the sampler saw."""

    time: float
    """Unix time in seconds."""
    host: HostSnapshot
    devices: tuple[DeviceSnapshot, ...]
    devices_error: str | None
    """Why there are no devices ("No NVIDIA driver is loaded."), or ``None`` where there are some."""
    rss_bytes: dict[str, int]
    """Resident memory by server name, summed over the server's processes (shared pages count once per process)."""
    gpu_bytes: dict[str, int | None]
    """Device memory by server name, summed over devices; ``None`` where the driver cannot tell."""
    pids: dict[str, tuple[int, ...]]
    """The living processes by server name: whose a device's processes are."""


class AcceleratorProbe(Protocol):
    """Reads accelerators. A module in this package offers one through ``PRIORITY`` and ``open_probe()``."""

    def read(self) -> tuple[DeviceSnapshot, ...]:
        """Reads every device once. Blocking: the sampler calls it in a thread.

        A device that fails is returned with its ``error``; raises ``TelemetryError`` only where nothing can be read.
        """

    def close(self) -> None:
        """Releases the vendor's library. May be called twice."""
