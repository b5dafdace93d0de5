"""The planner's answers as sentences, and its refusals with their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from server_manager.errors import InsufficientMemory
from server_manager.memory_plan.need import MemoryNeed
from server_manager.memory_plan.release import Action, Sleep, Stop, WaitFor, WaitReason
from server_manager.memory_plan.world import Device, UpServer, World
from server_manager.units import gib

OTHERS = "other processes"
_REASONS = {
    WaitReason.ENDING: "whose memory is coming free",
    WaitReason.STARTING: "which is starting",
    WaitReason.IN_USE: "which is in use",
}


def start_words(
    name: str,
    need: MemoryNeed,
    rooms: Sequence[tuple[Device, int]],
    actions: Sequence[Action],
    neighbours: Sequence[str],
    *,
    is_doubtful: bool,
) -> str:
    """``rooms`` are the devices with what is free there before the actions."""
    where = listed([device.words for device, _ in rooms])
    free = gib(min(free for _, free in rooms), 1)
    if need.least_bytes is None:
        size = f"its size is not known, and {free} are free on {where}"
    else:
        needed = f"it needs at least {gib(need.least_bytes, 1)}{' each' if len(rooms) > 1 else ''}"
        size = f"{needed}, and {free} are free on {where}" if actions else f"{needed} of the {free} free on {where}"
    if actions:
        return f"{_doing(name, actions)}: {size}."
    if is_doubtful:
        return f"{name} may turn out too large: {size}."
    if neighbours:
        return f"{name} fits beside {listed(neighbours)}: {size}."
    return f"{name} has {where} to itself: {size}."


def wake_words(name: str, rooms: Sequence[tuple[Device, int, int]], actions: Sequence[Action]) -> str:
    """``rooms`` are the devices with what it takes back and what is free there before the actions."""
    joined = ", and {} are free on {}" if actions else " of the {} free on {}"
    parts = [gib(needed, 1) + joined.format(gib(free, 1), device.words) for device, needed, free in rooms]
    size = f"it takes back {listed(parts)}" if parts else "what it takes back is not known"
    return f"{_doing(name, actions)}: {size}." if actions else f"{name} can wake: {size}."


def listed(names: Sequence[str]) -> str:
    """ "A", "A and B", "A, B and C"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


@dataclass(frozen=True, slots=True)
class Account:
    """One device in a refusal. Free, freeable and kept add up to the total, but for what the driver rounds."""

    device: int
    """Its index."""
    uuid: str | None
    requested_bytes: int
    free_bytes: int
    freeable_bytes: int
    """Held by servers that may be put to sleep or stopped, at once or when they are no longer in use."""
    promised_bytes: int
    """Of what is free, that servers which are starting will still take."""
    kept: Mapping[str, int]
    """Who holds the rest, in bytes by name."""
    total_bytes: int

    @property
    def missing_bytes(self) -> int:
        return max(0, self.requested_bytes - self.free_bytes - self.freeable_bytes)


def refusal(
    name: str,
    need: MemoryNeed | None,
    needed: Mapping[str, int],
    world: World,
    *,
    gpu_memory_utilization: float | None = None,
) -> InsufficientMemory:
    """Nothing that may be done makes enough room. ``needed`` is bytes by device, of those that could be used.

    ``gpu_memory_utilization`` is the user's. The facts are those of the device that comes nearest; all of them are in
    ``devices``.
    """
    devices = {device.index: device for device in world.devices if device.key in needed}
    accounts = [_account(device, needed[device.key], world) for device in devices.values()]
    count = need.gpu_count if need else 1
    # Of several that it needs, the one that comes nearest among those that are not good enough.
    nearest = sorted(accounts, key=lambda each: (each.missing_bytes, each.device))[min(count, len(accounts)) - 1]
    message = f"{name} needs {gib(nearest.requested_bytes, 1)} of {devices[nearest.device].words}"
    if gpu_memory_utilization is not None:
        message += f" (gpu-memory-utilization {gpu_memory_utilization:g})"
    elif need is not None and need.least_bytes is not None:
        message += (
            f" (weights {gib(need.weights_bytes, 1)}, cache for one request {gib(need.kv_least_bytes, 1)}, "
            f"all else {gib(need.overhead_bytes, 1)}, to spare {gib(nearest.requested_bytes - need.least_bytes, 1)})"
        )
    if need is not None and need.gpu_count > 1:
        message += f", and as much of each of {need.gpu_count} GPUs"
    message += (
        f"; {gib(nearest.free_bytes, 1)} of {gib(nearest.total_bytes, 1)} are free and "
        f"{gib(nearest.freeable_bytes, 1)} could be freed"
    )
    if nearest.kept:
        holders = [f"{who} ({gib(held, 1)})" for who, held in nearest.kept.items()]
        message += f". The rest is held by {listed(holders)}"
    own = {field.name: getattr(nearest, field.name) for field in fields(nearest)}
    facts = own | ({} if need is None else _need_facts(need))
    return InsufficientMemory(f"{message}.", _next_step(need, nearest), **facts, devices=accounts)


def _need_facts(need: MemoryNeed) -> dict[str, object]:
    return {
        "weights_bytes": need.weights_bytes,
        "kv_cache_bytes": need.kv_least_bytes,
        "overhead_bytes": need.overhead_bytes,
        "gpu_count": need.gpu_count,
        "basis": need.basis.value,
    }


def _account(device: Device, needed: int, world: World) -> Account:
    here = {server.name: server for server in world.servers if server.held.get(device.key)}
    freeable = sum(server.held[device.key] for server in here.values() if server.may_be_freed)
    kept = {name: server.held[device.key] for name, server in here.items() if not server.may_be_freed}
    others = device.total_bytes - device.free_bytes - freeable - sum(kept.values())
    if others > 0:
        kept[OTHERS] = others
    return Account(
        device=device.index,
        uuid=device.uuid,
        requested_bytes=needed,
        free_bytes=device.free_bytes,
        freeable_bytes=freeable,
        promised_bytes=sum(reserved_bytes(server, device.key) for server in world.servers),
        kept=kept,
        total_bytes=device.total_bytes,
    )


def reserved_bytes(server: UpServer, key: str) -> int:
    """What a server that starts or wakes will still take of a device."""
    return max(0, server.will_hold.get(key, 0) - server.held.get(key, 0)) if server.is_coming else 0


def _doing(name: str, actions: Sequence[Action]) -> str:
    waits = [f"{each.name}, {_REASONS[each.reason]}" for each in actions if isinstance(each, WaitFor)]
    sleeps = [each.name for each in actions if isinstance(each, Sleep)]
    stops = [each.name for each in actions if isinstance(each, Stop)]
    parts = [f"{name} waits for {listed(waits)}"] if waits else []
    parts += [f"{listed(sleeps)} {'is' if len(sleeps) == 1 else 'are'} put to sleep"] if sleeps else []
    parts += [f"{listed(stops)} {'is' if len(stops) == 1 else 'are'} stopped"] if stops else []
    return listed(parts) + ("" if waits else f" for {name}")


def _next_step(need: MemoryNeed | None, nearest: Account) -> str:
    if need is None:
        return "Stop what holds the memory, or stop the server and start it anew with less."
    if nearest.kept.get(OTHERS, 0) >= nearest.missing_bytes:
        return "End the other processes, set a shorter max-model-len, or take a smaller or quantized model."
    return "Set a shorter max-model-len, take a smaller or quantized model, or use more GPUs."
