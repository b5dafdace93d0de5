"""Machines, servers and starts for the planner's tests; sizes in GiB where not said otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server_manager.errors import InsufficientMemory
from server_manager.memory_plan.chosen import ChosenFlags, chosen_flags
from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.need import MemoryNeed, NeedBasis
from server_manager.memory_plan.places import Places
from server_manager.memory_plan.planner import StartRequest, decide_start
from server_manager.memory_plan.world import Device, Policy, UpServer, World
from server_manager.server_state import ServerState

GIB = 1 << 30


def gib(amount: float) -> int:
    return round(amount * GIB)


def gpu(index: int = 0, *, total: float = 79.18, free: float | None = None, name: str = "H100") -> Device:
    return Device(f"GPU-{index}", index, gib(total), gib(total if free is None else free), name)


def need(
    weights: float | None = 14.2,
    *,
    kv: float = 1.75,
    wished: float | None = None,
    overhead: float = 3.6,
    gpus: int = 1,
    basis: NeedBasis = NeedBasis.MEASURED,
) -> MemoryNeed:
    return MemoryNeed(
        gpu_count=gpus,
        tensor_parallel_size=gpus,
        weights_bytes=None if weights is None else gib(weights),
        kv_least_bytes=gib(kv),
        kv_wished_bytes=gib(4 * kv if wished is None else wished),
        overhead_bytes=gib(overhead),
        basis=basis if weights is not None else NeedBasis.UNKNOWN,
    )


def up(
    name: str,
    held: float,
    *,
    on: int | Sequence[int] = 0,
    state: ServerState = ServerState.READY,
    residue: float = 2,
    used: float = 0,
    levels: tuple[int, ...] = (1, 2),
    will_hold: float | None = None,
    host: float | None = None,
    in_use: bool = False,
    is_waking: bool = False,
    may_be_freed: bool = True,
) -> UpServer:
    keys = [f"GPU-{index}" for index in ([on] if isinstance(on, int) else on)]
    return UpServer(
        name,
        state,
        held={key: gib(held) for key in keys},
        will_hold={} if will_hold is None else {key: gib(will_hold) for key in keys},
        residue={key: gib(residue) for key in keys},
        last_used=used,
        in_use=in_use,
        is_waking=is_waking,
        may_be_freed=may_be_freed,
        sleep_levels=levels,
        host_bytes=None if host is None else gib(host),
    )


def world(devices: Sequence[Device], *servers: UpServer, host: float | None = 100) -> World:
    """``free`` of the devices as it is with these servers on them."""
    held = {device.key: sum(server.held.get(device.key, 0) for server in servers if server.held) for device in devices}
    shown = tuple(
        Device(each.key, each.index, each.total_bytes, each.free_bytes - held[each.key], each.name, each.on_host)
        for each in devices
    )
    return World(shown, servers, None if host is None else gib(host))


def answer(
    where: World,
    *needs: MemoryNeed,
    name: str = "new",
    options: Mapping[str, object] | None = None,
    fixed: tuple[int, ...] | None = None,
    can_sleep: bool = True,
    policy: Policy = Policy(),  # noqa: B008 - frozen
) -> Decision | InsufficientMemory:
    places = Places(where.devices)
    if fixed is not None:
        places = Places(tuple(where.devices[index] for index in fixed), is_fixed=True)
    flags = ChosenFlags() if options is None else chosen_flags(options)
    return decide_start(StartRequest(name, needs, flags, places, can_sleep), where, policy)


def decided(*args: object, **kwargs: object) -> Decision:
    found = answer(*args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(found, Decision), found
    return found


def refused(*args: object, **kwargs: object) -> InsufficientMemory:
    found = answer(*args, **kwargs)  # type: ignore[arg-type]
    assert isinstance(found, InsufficientMemory), found
    return found
