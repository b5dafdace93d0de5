"""Who holds a GPU's memory, in words."""

from __future__ import annotations

from server_manager.memory_plan.words import held_by
from server_manager.phrases import Phrase
from server_manager.telemetry.base import DeviceSnapshot, Reading


def holders(device: DeviceSnapshot, reading: Reading, most: int = 3) -> tuple[Phrase | str, ...]:
    """Who holds this device's memory, largest first: "Qwen2-7B-Instruct (14.2 GiB)"."""
    owner = {pid: name for name, pids in reading.pids.items() for pid in pids}
    held: dict[str | int, int] = {}
    strangers = {}
    for process in device.processes or ():
        who: str | int = owner.get(process.pid) or process.pid
        strangers[process.pid] = process.name
        held[who] = held.get(who, 0) + (process.used_gpu_memory_bytes or 0)
    largest = sorted(held.items(), key=lambda item: -item[1])[:most]
    return tuple(held_by(who, strangers.get(who) if isinstance(who, int) else None, used) for who, used in largest)
