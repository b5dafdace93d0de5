"""Who holds a GPU's memory, in words."""

from __future__ import annotations

from server_manager.telemetry.base import DeviceSnapshot, Reading
from server_manager.units import gib


def holders(device: DeviceSnapshot, reading: Reading, most: int = 3) -> list[str]:
    """Who holds this device's memory, largest first: "Qwen2-7B-Instruct (14.2 GiB)"."""
    owner = {pid: name for name, pids in reading.pids.items() for pid in pids}
    held: dict[str, int] = {}
    for process in device.processes or ():
        name = owner.get(process.pid) or f"{process.name or 'a process of another container'}, pid {process.pid}"
        held[name] = held.get(name, 0) + (process.used_gpu_memory_bytes or 0)
    largest = sorted(held.items(), key=lambda item: -item[1])[:most]
    return [f"{name} ({gib(used, 1)})" if used else name for name, used in largest]
