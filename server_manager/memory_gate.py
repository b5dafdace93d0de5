"""Lets a start through once the memory that vLLM will ask for is really free."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from server_manager.errors import InsufficientMemory
from server_manager.model_spec import ModelSpec
from server_manager.stop_receipt import Readings
from server_manager.telemetry.base import DeviceSnapshot, Reading
from server_manager.units import gib

_VLLM_DEFAULT_UTILIZATION = 0.92
_STILL_SECONDS = 3.0
"""When no more memory has come free for so long, none is going to."""
_MOVED_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Shortage:
    """A device with less free memory than vLLM will ask for."""

    device: DeviceSnapshot
    requested_bytes: int
    free_bytes: int
    gpu_memory_utilization: float


async def until_memory_is_free(
    spec: ModelSpec,
    readings: Readings,
    progress: Callable[[str], None],
    server_is_ending: Callable[[], bool],
) -> Reading:
    """Waits while memory that is missing is coming free, and returns the last reading.

    It is coming free while a server of ours ends (``server_is_ending``) or while there was more of it seconds ago.
    Raises ``InsufficientMemory``, which says who holds it, where that is not so: vLLM's own check is bound to fail some
    30 s later.
    """
    most_free = -1
    moved_at = time.monotonic()
    while True:
        reading = await readings.fresh_reading()
        shortage = find_shortage(spec, reading.devices)
        if shortage is None:
            return reading
        if shortage.free_bytes > most_free + _MOVED_BYTES or server_is_ending():
            most_free = max(most_free, shortage.free_bytes)
            moved_at = time.monotonic()
        if time.monotonic() - moved_at > _STILL_SECONDS:
            raise _refusal(spec, shortage, reading)
        progress(
            f"waiting for memory of GPU {shortage.device.index}: "
            f"{gib(shortage.free_bytes, 1)} of {gib(shortage.requested_bytes, 1)} are free"
        )
        await asyncio.sleep(0.2)


def find_shortage(
    spec: ModelSpec, devices: Sequence[DeviceSnapshot], environ: Mapping[str, str] = os.environ
) -> Shortage | None:
    """The first device on which vLLM's own check will fail, or ``None``.

    The formula is vLLM's ``request_memory`` (v1/worker/utils.py): free >= ceil(total * gpu_memory_utilization), on as
    many devices as the model is split over. It is made with ``kv-cache-memory-bytes`` too (seen with 0.25.1, and so in
    the source of 0.32; only the CPU's worker leaves it out then), and left to vLLM where the spec chooses the devices.
    """
    options = spec.options
    if "device-ids" in options or "CUDA_VISIBLE_DEVICES" in {**environ, **spec.env}:
        return None
    try:
        share = float(str(options.get("gpu-memory-utilization", _VLLM_DEFAULT_UTILIZATION)))
        split = int(str(options.get("tensor-parallel-size", 1))) * int(str(options.get("pipeline-parallel-size", 1)))
    except ValueError:
        return None  # vLLM's parser says it better
    for device in devices[:split]:
        total, free = device.memory_total_bytes, device.memory_free_bytes
        if total and free is not None and free < share * total:
            return Shortage(device, int(share * total), free, share)
    return None


def _refusal(spec: ModelSpec, shortage: Shortage, reading: Reading) -> InsufficientMemory:
    who = holders(shortage.device, reading)
    return InsufficientMemory(
        f"{spec.name} asks for {gib(shortage.requested_bytes, 1)} of GPU {shortage.device.index} "
        f"(gpu-memory-utilization {shortage.gpu_memory_utilization:g}), and {gib(shortage.free_bytes, 1)} are free"
        + (f"; the rest is held by {', '.join(who)}." if who else "."),
        "Stop another server, or lower gpu-memory-utilization.",
        requested_bytes=shortage.requested_bytes,
        free_bytes=shortage.free_bytes,
        total_bytes=shortage.device.memory_total_bytes,
        gpu_memory_utilization=shortage.gpu_memory_utilization,
        device=shortage.device.index,
    )


def holders(device: DeviceSnapshot, reading: Reading, most: int = 3) -> list[str]:
    """Who holds this device's memory, largest first: "Qwen2-7B-Instruct (14.2 GiB)"."""
    owner = {pid: name for name, pids in reading.pids.items() for pid in pids}
    held: dict[str, int] = {}
    for process in device.processes or ():
        name = owner.get(process.pid) or f"{process.name or 'a process of another container'}, pid {process.pid}"
        held[name] = held.get(name, 0) + (process.used_gpu_memory_bytes or 0)
    largest = sorted(held.items(), key=lambda item: -item[1])[:most]
    return [f"{name} ({gib(used, 1)})" if used else name for name, used in largest]
