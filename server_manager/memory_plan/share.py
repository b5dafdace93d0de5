"""How much of a GPU a server gets, in the two flags of vLLM that say it.

What vLLM does with them (0.25 and 0.32, CUDA):

- Before loading it wants ``free >= ceil(total * gpu_memory_utilization)`` on each GPU, also with
  ``kv-cache-memory-bytes`` (v1/worker/utils.py ``request_memory``, called by gpu_worker.py ``init_device``). "Free" is
  read when its CUDA context and NCCL are there already: what it took until then (``context_bytes``) is gone.
- Without ``kv-cache-memory-bytes``: KV cache = ceil(total * utilization) - what this server took since that look - its
  peak of activations - its CUDA graphs (gpu_worker.py ``determine_available_memory``). The memory of others is not in
  it: the utilization is this server's own part, and two servers with 0.4 each fit on one GPU. But it is measured as
  the difference of the GPU's free memory: whatever others take meanwhile is counted as its own, and if they give
  memory back the start fails ("Error in memory profiling").
- With ``kv-cache-memory-bytes`` nothing is measured: the cache has that size, and what else it needs must be free.

Hence: a server that has its GPUs to itself (sleeping servers keep still) gets a utilization and measures for itself;
one with neighbours that are awake gets a fixed cache, and a utilization that its first check passes with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from server_manager.memory_plan.chosen import VLLM_DEFAULT_SHARE, ChosenFlags
from server_manager.memory_plan.need import MemoryNeed
from server_manager.memory_plan.world import MIB, Device, Policy

_STEPS = 10_000
"""A utilization is written with four digits: 8 MiB of an H100."""
_GROWN_BYTES = 128 * MIB
"""What a server takes after vLLM has measured: 73.53 GiB were held where 72.84 were its share and 0.52 its context."""
_CONTEXT_OF_EMPTY_BYTES = 512 * MIB
"""With a utilization that the user set, no more than this is asked for on top of it where nothing else is there."""


@dataclass(frozen=True, slots=True)
class Room:
    """A device that was chosen, with what will be free on it when the start begins."""

    device: Device
    free_bytes: int
    sleeping_bytes: int = 0
    """What servers that sleep will hold of it then."""


@dataclass(frozen=True, slots=True)
class Share:
    """The flags to add, and what the server will then hold of each device."""

    options: Mapping[str, object]
    will_hold: Mapping[str, int]
    budget_bytes: int = 0
    """What vLLM will divide up by itself, of the largest device; 0 where the cache has a fixed size."""


def demand(need: MemoryNeed, flags: ChosenFlags, device: Device, policy: Policy, least_bytes: int | None) -> int:
    """What must be free on a device so that the start succeeds, ``least_bytes`` being what the model needs there."""
    share = flags.gpu_memory_utilization
    if device.on_host:
        return 0 if least_bytes is None else least_bytes + policy.spare_bytes
    if share is None:
        if least_bytes is None:
            return math.ceil(policy.alone_share * device.total_bytes) + need.context_bytes
        return least_bytes + policy.spare_bytes
    asked = math.ceil(share * device.total_bytes)
    # An empty GPU is never too small for what the user wrote: of that vLLM itself may judge.
    most = max(asked, device.total_bytes - _CONTEXT_OF_EMPTY_BYTES)
    wanted = asked + need.context_bytes
    if flags.kv_cache_memory_bytes is not None and least_bytes is not None:
        wanted = max(wanted, least_bytes + policy.spare_bytes)
    return min(wanted, most)


def share_of(
    need: MemoryNeed,
    flags: ChosenFlags,
    rooms: tuple[Room, ...],
    *,
    has_neighbours: bool,
    can_sleep: bool,
    policy: Policy,
) -> Share:
    """The flags that the user has left open. ``has_neighbours``: whether others are awake on one of the devices."""
    if any(room.device.on_host for room in rooms):
        return Share({}, {room.device.key: need.least_bytes or 0 for room in rooms})
    kv_bytes = flags.kv_cache_memory_bytes
    options: dict[str, object] = {}
    if kv_bytes is None and flags.gpu_memory_utilization is None and has_neighbours and need.least_bytes is not None:
        kv_bytes = options["kv-cache-memory-bytes"] = _fixed_cache(need, rooms, policy)
    share = flags.gpu_memory_utilization
    if share is None:
        measured = _measured_share(need, rooms, can_sleep=can_sleep, policy=policy) if kv_bytes is None else None
        if measured is None and kv_bytes is None and need.least_bytes is not None:
            kv_bytes = options["kv-cache-memory-bytes"] = _fixed_cache(need, rooms, policy)
        share = measured or min(_passing_share(need, room, kv_bytes or 0) for room in rooms)
        if share != VLLM_DEFAULT_SHARE:
            options["gpu-memory-utilization"] = share
    budgets = [math.ceil(share * room.device.total_bytes) for room in rooms] if kv_bytes is None else [0]
    will_hold = {room.device.key: _held(need, room.device, share, kv_bytes) for room in rooms}
    return Share(options, will_hold, max(budgets))


def _fixed_cache(need: MemoryNeed, rooms: tuple[Room, ...], policy: Policy) -> int:
    """Up to what is wished for, in whole MiB, so that something is left for others."""
    least, wished = need.kv_least_bytes or 0, need.kv_wished_bytes or 0
    rest = min(room.free_bytes for room in rooms) - policy.spare_bytes - (need.weights_bytes or 0) - need.overhead_bytes
    if rest <= least:  # a start of which it is not certain that it fits
        return least
    return max(least, min(wished, rest) // MIB * MIB)


def _passing_share(need: MemoryNeed, room: Room, kv_bytes: int) -> float:
    """vLLM's default if its first check passes with it, else the part that the server will really have."""
    total = room.device.total_bytes
    free = room.free_bytes - need.context_bytes
    if need.weights_bytes is None or math.ceil(VLLM_DEFAULT_SHARE * total) <= free:
        return min(VLLM_DEFAULT_SHARE, _down(free / total))
    return _down(min(free, need.weights_bytes + need.overhead_bytes - need.context_bytes + kv_bytes) / total)


def _measured_share(need: MemoryNeed, rooms: tuple[Room, ...], *, can_sleep: bool, policy: Policy) -> float | None:
    """The usual share, less room for sleepers unless the wish needs it; more where the model does not fit otherwise.

    vLLM has one utilization for all GPUs. ``None`` where they are too different for one that suits them all.
    """
    found = [_bounds(need, room, can_sleep=can_sleep, policy=policy) for room in rooms]
    least, most = max(bounds.least for bounds in found), min(bounds.most for bounds in found)
    if least > most and len(rooms) > 1:
        return None
    return min(most, max(least, min(bounds.usual for bounds in found)))


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Utilizations of one device."""

    least: float
    """With less the cache is too small for one request, and vLLM does not start."""
    usual: float
    most: float
    """With more vLLM's check fails."""


def _bounds(need: MemoryNeed, room: Room, *, can_sleep: bool, policy: Policy) -> _Bounds:
    total = room.device.total_bytes
    free = room.free_bytes - need.context_bytes - policy.spare_bytes
    for_sleepers = max(0, policy.sleepers * policy.sleeper_bytes - room.sleeping_bytes) if can_sleep else 0
    usual, least = min(policy.alone_share * total, free), 0
    if need.least_bytes is not None and need.wished_bytes is not None:
        usual = min(usual, max(free - for_sleepers, need.wished_bytes - need.context_bytes))
        least = need.least_bytes - need.context_bytes
    return _Bounds(_up(least / total), _up(usual / total), _down(free / total))


def _held(need: MemoryNeed, device: Device, share: float, kv_bytes: int | None) -> int:
    """What the server will hold of the device when it is up."""
    if kv_bytes is not None and need.weights_bytes is not None:
        return need.weights_bytes + need.overhead_bytes + kv_bytes
    return min(math.ceil(share * device.total_bytes) + need.context_bytes + _GROWN_BYTES, device.total_bytes)


def _down(share: float) -> float:
    """At least one step: vLLM takes no 0."""
    return min(1.0, max(1, math.floor(share * _STEPS + 1e-6)) / _STEPS)


def _up(share: float) -> float:
    return max(1, math.ceil(share * _STEPS - 1e-6)) / _STEPS
