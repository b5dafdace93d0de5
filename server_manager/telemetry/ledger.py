"""Who holds the memory: one list of owners for each GPU, and one for the machine, that add up to the whole.

Pure functions over one ``Reading`` and what is known of the servers. Two figures never quite agree (NVML counts
processes and the device one after the other), so owners are filled in, one by one, up to what the device says is used:
nothing is negative, nothing adds up to more than there is, and what nobody accounts for is shown as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from server_manager.memory_parts import MemoryParts
from server_manager.telemetry.base import DeviceProcess, DeviceSnapshot, HostSnapshot

HIDING_BYTES = 1 << 30
"""More used memory than this without a listed process: the driver hides processes from us (a container)."""
_VLLM_NAME = re.compile(r"^vllm$|::(EngineCor|Worker|DPCoord|APIServer)", re.IGNORECASE)


class OwnerKind(StrEnum):
    """In the order in which they are listed."""

    SERVER = "server"
    LEFTOVER = "leftover"
    """Of a server of ours whose app is dead."""
    PROCESS = "process"
    """Somebody else's process, or one of ours that has nothing to do with servers."""
    OTHERS = "others"
    """All of those together, where they are not told apart."""
    UNACCOUNTED = "unaccounted"
    """Used, and no listed process holds it."""
    RESERVED = "reserved"
    """By driver and firmware."""
    FREE = "free"


class PartKind(StrEnum):
    """What a server holds its memory for."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    OTHER = "other"
    """CUDA graphs, context, activations: what the process holds less the parts that vLLM has told."""
    ASLEEP = "asleep"
    """What a sleeping server still holds."""
    UNSPLIT = "unsplit"
    """vLLM has not told yet what it is for."""


class Basis(StrEnum):
    """How a GPU's memory was told apart."""

    PROCESSES = "processes"
    HIDDEN = "hidden"
    """Estimated from differences: this container does not show process ids."""
    UNLISTED = "unlisted"
    """Estimated from differences: the driver lists no processes."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what a server holds."""

    kind: PartKind
    held_bytes: int
    about: bool = False
    """Whether it is not vLLM's own figure for just this process."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody who holds memory, or the memory that nobody holds."""

    kind: OwnerKind
    held_bytes: int | None
    """``None`` where the driver does not tell; it is part of what is unaccounted then."""
    name: str | None = None
    """Of the server or process; ``None`` where it cannot be seen."""
    parts: tuple[Part, ...] = ()
    """Of a server; they add up to ``held_bytes``."""
    pids: tuple[int, ...] = ()
    user: str | None = None
    started_at: float | None = None
    """Unix time in seconds, of a process of others."""
    vllm: bool = False
    """Whether a process of others looks like vLLM."""
    estimated: bool = False
    leftover_id: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A server, or the leftovers of one, that may hold memory."""

    name: str
    pids: frozenset[int]
    asleep: bool = False
    memory: MemoryParts | None = None
    leftover_id: str | None = None
    rss_bytes: int = 0
    differences: Mapping[int, int] | None = None
    """Bytes by device index, from the device's own figure before and after its start; ``None`` where not known."""

    @property
    def kind(self) -> OwnerKind:
        return OwnerKind.SERVER if self.leftover_id is None else OwnerKind.LEFTOVER


@dataclass(frozen=True, slots=True)
class MemoryLedger:
    """The memory of one GPU, or of the machine."""

    index: int | None = None
    """``None``: the machine's own memory."""
    total_bytes: int | None = None
    used_bytes: int | None = None
    """What the device itself says, less what driver and firmware reserve where it tells that apart."""
    owners: tuple[Owner, ...] = ()
    """Their known bytes add up to ``total_bytes``; empty where the device gives no figures."""
    basis: Basis = Basis.PROCESSES


@dataclass(slots=True)
class _Budget:
    """What is left to be accounted for."""

    left_bytes: int
    owners: list[Owner] = field(default_factory=list)

    def add(self, owner: Owner) -> None:
        """Takes an owner, with no more than what is left; one who holds nothing is left out."""
        if owner.held_bytes is not None:
            held = max(0, min(owner.held_bytes, self.left_bytes))
            if not held:
                return
            self.left_bytes -= held
            owner = replace(owner, held_bytes=held)
        self.owners.append(owner)


def device_ledgers(
    devices: Sequence[DeviceSnapshot], claims: Sequence[Claim], *, may_hide: bool
) -> tuple[MemoryLedger, ...]:
    """One for each device, in their order. ``may_hide``: whether this is a container with pids of its own."""
    hidden = may_hide and _pids_do_not_match(devices, claims)
    return tuple(_device_ledger(device, claims, hidden, len(devices)) for device in devices)


def host_ledger(host: HostSnapshot, claims: Sequence[Claim]) -> MemoryLedger:
    """The machine's memory: what each server has resident, everything else, and what is free."""
    total = host.memory_total_bytes
    used = min(host.memory_used_bytes, total)
    budget = _Budget(used)
    for claim in claims:
        held = min(claim.rss_bytes, budget.left_bytes)
        parts: tuple[Part, ...] = ()
        if claim.kind is OwnerKind.SERVER and held > 0:
            memory = claim.memory if claim.memory and claim.memory.on_cpu else None
            weights = memory.weights_total_bytes if memory else None
            cache = memory.kv_cache_total_bytes if memory else None
            parts = split(held, weights, cache, about=bool(memory and not any(r.weights_bytes for r in memory.ranks)))
        budget.add(_owner(claim, held, parts))
    budget.add(Owner(OwnerKind.OTHERS, budget.left_bytes))
    return _finished(budget, MemoryLedger(None, total, used), 0)


def split(
    held_bytes: int, weights_bytes: int | None, kv_cache_bytes: int | None, *, about: bool = False
) -> tuple[Part, ...]:
    """What a server holds, by purpose. What it does not hold yet (a cache that is only planned) is not counted."""
    if weights_bytes is None and kv_cache_bytes is None:
        return (Part(PartKind.UNSPLIT, held_bytes),)
    weights = min(weights_bytes or 0, held_bytes)
    cache = min(kv_cache_bytes or 0, held_bytes - weights)
    found = (
        Part(PartKind.WEIGHTS, weights, about),
        Part(PartKind.KV_CACHE, cache),
        Part(PartKind.OTHER, held_bytes - weights - cache, about),
    )
    return tuple(part for part in found if part.held_bytes)


def _device_ledger(device: DeviceSnapshot, claims: Sequence[Claim], hidden: bool, device_count: int) -> MemoryLedger:
    total, used = device.memory_total_bytes, _used(device)
    if device.error or total is None or used is None:
        return MemoryLedger(device.index, total, used)
    used = min(used, total)
    budget = _Budget(used)
    basis = Basis.PROCESSES
    if device.processes is not None and not hidden:
        for owner in _told_by_processes(device.processes, claims, used):
            budget.add(owner)
        budget.add(Owner(OwnerKind.UNACCOUNTED, budget.left_bytes))
    else:
        basis = Basis.UNLISTED if device.processes is None else Basis.HIDDEN
        for claim in claims:
            if (guess := _guess(claim, device.index, device_count)) is None:
                budget.add(_owner(claim, None, (), estimated=True))
            else:
                held = min(guess, budget.left_bytes)
                budget.add(_owner(claim, held, _parts(claim, held, None), estimated=True))
        budget.add(Owner(OwnerKind.OTHERS, budget.left_bytes))
    return _finished(budget, MemoryLedger(device.index, total, used, basis=basis), device.memory_reserved_bytes or 0)


def _finished(budget: _Budget, ledger: MemoryLedger, reserved_bytes: int) -> MemoryLedger:
    """With what nobody uses: the rest of the total, whatever it is."""
    assert ledger.total_bytes is not None
    assert ledger.used_bytes is not None
    rest = _Budget(ledger.total_bytes - ledger.used_bytes, budget.owners)
    rest.add(Owner(OwnerKind.RESERVED, reserved_bytes))
    rest.add(Owner(OwnerKind.FREE, rest.left_bytes))
    return replace(ledger, owners=tuple(rest.owners))


def _used(device: DeviceSnapshot) -> int | None:
    if device.memory_used_bytes is not None:
        return max(0, device.memory_used_bytes)
    if device.memory_total_bytes is None or device.memory_free_bytes is None:
        return None
    return max(0, device.memory_total_bytes - device.memory_free_bytes - (device.memory_reserved_bytes or 0))


def _told_by_processes(processes: Sequence[DeviceProcess], claims: Sequence[Claim], used_bytes: int) -> list[Owner]:
    """Everybody who has a process on the device: ours first, the others by size."""
    found: list[tuple[Owner, Claim | None]] = []
    claimed: set[int] = set()
    for claim in claims:
        own = [process for process in processes if process.pid in claim.pids and process.pid not in claimed]
        if own:
            claimed.update(process.pid for process in own)
            pids = tuple(process.pid for process in sorted(own, key=lambda p: -(p.used_gpu_memory_bytes or 0)))
            found.append((_owner(claim, _sum(process.used_gpu_memory_bytes for process in own), (), pids=pids), claim))
    others = [process for process in processes if process.pid not in claimed]
    others.sort(key=lambda process: (-(process.used_gpu_memory_bytes or 0), process.pid))
    found += [(_stranger(process), None) for process in others]
    unknown = [owner for owner, _ in found if owner.held_bytes is None]
    if len(unknown) == 1:  # what nobody else holds is its
        rest = max(0, used_bytes - sum(owner.held_bytes or 0 for owner, _ in found))
        found = [
            (replace(owner, held_bytes=rest, estimated=True) if owner is unknown[0] else owner, claim)
            for owner, claim in found
        ]
    left = used_bytes
    owners = []
    for owner, found_claim in found:
        if owner.held_bytes is not None:
            owner = replace(owner, held_bytes=min(owner.held_bytes, left))
            left -= owner.held_bytes or 0
            if found_claim is not None and found_claim.kind is OwnerKind.SERVER:
                owner = replace(owner, parts=_parts(found_claim, owner.held_bytes or 0, owner.pids[0]))
        owners.append(owner)
    return owners


def _owner(
    claim: Claim, held: int | None, parts: tuple[Part, ...], *, pids: tuple[int, ...] = (), estimated: bool = False
) -> Owner:
    if claim.kind is not OwnerKind.SERVER:
        parts = ()
    return Owner(
        claim.kind,
        held,
        claim.name,
        parts,
        pids or tuple(sorted(claim.pids)),
        estimated=estimated,
        leftover_id=claim.leftover_id,
    )


def _stranger(process: DeviceProcess) -> Owner:
    return Owner(
        OwnerKind.PROCESS,
        process.used_gpu_memory_bytes,
        process.name,
        pids=(process.pid,),
        user=process.user,
        started_at=process.started_at,
        vllm=bool(process.name and _VLLM_NAME.search(process.name)),
    )


def _parts(claim: Claim, held_bytes: int, pid: int | None) -> tuple[Part, ...]:
    """``pid`` is that of the process that holds most: a worker of vLLM."""
    if held_bytes <= 0:
        return ()
    if claim.asleep:
        return (Part(PartKind.ASLEEP, held_bytes),)
    memory = claim.memory
    rank, exact = memory.rank_of(pid) if memory is not None and not memory.on_cpu else (None, False)
    if rank is None:
        return (Part(PartKind.UNSPLIT, held_bytes),)
    return split(held_bytes, rank.weights_bytes, rank.kv_cache_bytes, about=not exact)


def _guess(claim: Claim, index: int, device_count: int) -> int | None:
    """What a server holds on a device where its processes cannot be seen."""
    if claim.differences is not None:
        return claim.differences.get(index, 0)
    # It was up before we were: what it told in its log, where there is only one GPU that it can be on.
    rank = claim.memory.rank_of(None)[0] if claim.memory and not claim.memory.on_cpu else None
    if rank is None or device_count != 1 or claim.asleep:
        return None
    return (rank.weights_bytes or 0) + (rank.kv_cache_bytes or 0) + (rank.cuda_graph_bytes or 0)


def _pids_do_not_match(devices: Sequence[DeviceSnapshot], claims: Sequence[Claim]) -> bool:
    """Whether the driver's pids are those of another namespace, or are kept from us (NVIDIA/nvidia-docker#179)."""
    ours = {pid for claim in claims for pid in claim.pids}
    listed = [process for device in devices for process in device.processes or ()]
    if not ours or any(process.pid in ours for process in listed):
        return False
    return any(process.name is None for process in listed) or any(
        device.processes is not None
        and (device.memory_used_bytes or 0) - sum(p.used_gpu_memory_bytes or 0 for p in device.processes) > HIDING_BYTES
        for device in devices
    )


def _sum(values: Iterable[int | None]) -> int | None:
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)
