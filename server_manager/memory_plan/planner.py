"""The decision of the memory planner: where a server starts, with how much, and what has to make room for it.

Pure: the same world gives the same answer, nothing is done and nothing is read. The rules:

1. **Never more than there is.** A device is used only if what the start needs (``need.least_bytes``, or with a
   ``gpu-memory-utilization`` of the user what vLLM's own check wants) is free there, once what servers that are still
   starting will take is subtracted and what the actions free is added. Sleeping servers count with what they keep.
   Actions are followed by a new decision over a fresh reading, so what was only predicted is never relied on: a start
   does not fail for memory that was not there.
2. **What the user wrote stands.** Flags in the model's file are taken as they are; only those left open are added. A
   server in use, or one that may not be freed, is not touched.
3. **Do less rather than more.** First whether it fits beside the others as they are (with a cache for one request at
   least, and up to what is wished for), then who can sleep, then who must be stopped, least recently used first
   (``release``); waiting for somebody who is in use comes last.
4. **Fewest GPUs.** A model is split only where it fits on no single one; among equal GPUs the one with most free.
5. **One at a time on a GPU.** Where a server starts, wakes, falls asleep or ends, that is waited for: memory that moves
   meanwhile spoils vLLM's profiling.
6. **How much.** Alone (beside sleeping servers, or none) it gets vLLM's own share of 0.92, less what sleepers keep and
   room for ``Policy.sleepers`` of them, more where its smallest need wants it. Beside servers that are awake, or other
   people's large processes, it gets a cache of fixed size (``share``).
7. **When nothing is sure.** A model whose size is not known gets the emptiest GPU, with idle servers put away. One that
   by the formulas just does not fit is tried if its weights and one request do, on a GPU from which all was freed that
   may be; the answer says so (``is_doubtful``). Otherwise it is refused, with all numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from server_manager.errors import InsufficientMemory
from server_manager.memory_plan.chosen import ChosenFlags
from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.need import MemoryNeed
from server_manager.memory_plan.places import VISIBLE, Places
from server_manager.memory_plan.release import Action, Grade, Step, WaitFor, WaitReason, action_of, make_room
from server_manager.memory_plan.share import Room, demand, share_of
from server_manager.memory_plan.words import left_to_vllm, refusal, reserved_bytes, start_words, wake_words
from server_manager.memory_plan.world import GIB, Device, Policy, UpServer, World
from server_manager.server_state import ServerState

DEFAULT_POLICY = Policy()
_UNKNOWN_LEAST_BYTES = 2 * GIB
"""A model of unknown size is not even tried with less."""
_Demand = Callable[[Device], int]


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A server that shall start."""

    name: str
    needs: tuple[MemoryNeed, ...]
    """In each way of splitting it, fewest GPUs first (``memory_needs``)."""
    flags: ChosenFlags = field(default_factory=ChosenFlags)
    places: Places | None = None
    """``None``: where it may go cannot be told, so vLLM is left to choose and to check."""
    can_sleep: bool = False
    """Whether servers sleep on this machine: then room is left for those that do."""


@dataclass(frozen=True, slots=True)
class _Placement:
    """Devices that can be made to hold it."""

    need: MemoryNeed
    devices: tuple[Device, ...]
    steps: tuple[Step, ...]
    waits: tuple[WaitFor, ...]
    is_doubtful: bool


def decide_start(request: StartRequest, world: World, policy: Policy = DEFAULT_POLICY) -> Decision | InsufficientMemory:
    """What to do so that this server can start; or, returned and not raised, why it cannot."""
    pool = request.places.devices if request.places else ()
    needs = [need for need in request.needs if need.gpu_count <= len(pool)]
    if not needs or request.places is None:
        return Decision(words=left_to_vllm(request.name))
    others = world.without(request.name)
    for sure in (False, True):
        for waiting in (False, True):
            for need in needs:
                found = _place(request, need, others, world, policy, sure=sure, waiting=waiting)
                if found is not None:
                    return _decision(request, found, others, world, policy)
    # The numbers of the way that asks least of each GPU: if even that is too much, all are.
    need = min(needs, key=lambda need: need.least_bytes or 0)
    devices = pool[: need.gpu_count] if request.places.is_fixed else pool
    needed = {device.key: demand(need, request.flags, device, policy, need.least_bytes) for device in devices}
    return refusal(
        request.name,
        need,
        needed,
        World(world.devices, others, world.host_available_bytes),
        gpu_memory_utilization=request.flags.gpu_memory_utilization,
    )


def decide_wake(name: str, world: World, policy: Policy = DEFAULT_POLICY) -> Decision | InsufficientMemory:
    """What to do so that this sleeping server can take back what it gave; or, returned, why it cannot.

    Then it can only be stopped and started anew, with the share that there is.
    """
    server = next((server for server in world.servers if server.name == name), None)
    others = world.without(name)
    back = {
        device.key: amount
        for device in world.devices
        if server is not None and (amount := server.will_hold.get(device.key, 0) - server.held.get(device.key, 0)) > 0
    }
    devices = tuple(device for device in world.devices if device.key in back)
    for waiting in (False, True):
        steps = _steps(devices, others, lambda device: back[device.key] + policy.spare_bytes, world, policy, waiting)
        if steps is not None:
            actions = _actions(steps, _waits(devices, others))
            rooms = [(device, back[device.key], _available(device, others)) for device in devices]
            return Decision(
                actions=actions,
                device_keys=tuple(back),
                device_uuids=tuple(device.uuid for device in devices if device.uuid),
                will_hold=dict(server.will_hold) if server is not None else {},
                words=wake_words(name, rooms, actions),
            )
    needed = {key: amount + policy.spare_bytes for key, amount in back.items()}
    return refusal(name, None, needed, world)


def _place(
    request: StartRequest,
    need: MemoryNeed,
    others: Sequence[UpServer],
    world: World,
    policy: Policy,
    *,
    sure: bool,
    waiting: bool,
) -> _Placement | None:
    """The best devices for one way of splitting, or ``None`` where there are too few.

    ``sure`` asks only for what it needs for certain, and frees all that may be freed for it.
    """
    assert request.places is not None
    pool = request.places.devices
    usual = _usual_demand(request, need, policy)
    wanted: _Demand = usual
    if sure:
        least = _UNKNOWN_LEAST_BYTES if need.least_bytes is None else need.sure_bytes
        if least is None or request.flags.gpu_memory_utilization is not None:
            return None

        def wanted(device: Device) -> int:
            freed = sum(server.held.get(device.key, 0) for server in others if _can_go(server, waiting=waiting))
            return max(least + policy.spare_bytes, min(usual(device), _available(device, others) + freed))

    if request.places.is_fixed:
        devices = pool[: need.gpu_count]
    else:
        ranked = [
            (rank, device)
            for device in pool
            if (rank := _rank(device, others, wanted, world, policy, waiting=waiting)) is not None
        ]
        devices = tuple(device for _, device in sorted(ranked, key=lambda each: each[0])[: need.gpu_count])
        if len(devices) < need.gpu_count:
            return None
    steps = _steps(devices, others, wanted, world, policy, waiting)
    if steps is None:
        return None
    return _Placement(need, devices, steps, _waits(devices, others), is_doubtful=sure)


def _usual_demand(request: StartRequest, need: MemoryNeed, policy: Policy) -> _Demand:
    return lambda device: demand(need, request.flags, device, policy, need.least_bytes)


def _can_go(server: UpServer, *, waiting: bool) -> bool:
    if server.state is ServerState.STOPPING:
        return True
    return server.may_be_freed and (waiting or not (server.in_use or server.is_going or server.is_coming))


def _rank(
    device: Device, others: Sequence[UpServer], wanted: _Demand, world: World, policy: Policy, *, waiting: bool
) -> tuple[int, ...] | None:
    """How much has to be done on a device, least first; ``None`` where all of it is not enough."""
    steps = _steps((device,), others, wanted, world, policy, waiting)
    if steps is None:
        return None
    count = [sum(step.grade is grade for step in steps) for grade in (Grade.AWAIT, Grade.STOP, Grade.SLEEP)]
    waits = len(_waits((device,), others))
    return (count[0], count[1], waits, count[2], -_available(device, others), device.index)


def _steps(
    devices: Sequence[Device],
    others: Sequence[UpServer],
    wanted: _Demand,
    world: World,
    policy: Policy,
    waiting: bool,
) -> tuple[Step, ...] | None:
    shortfall = {device.key: wanted(device) - _available(device, others) for device in devices}
    return make_room(shortfall, others, waiting=waiting, host_available_bytes=world.host_available_bytes, policy=policy)


def _available(device: Device, others: Sequence[UpServer]) -> int:
    """Free, less what those that are starting or waking will still take. May be below nothing."""
    return device.free_bytes - sum(reserved_bytes(server, device.key) for server in others)


def _waits(devices: Sequence[Device], others: Sequence[UpServer]) -> tuple[WaitFor, ...]:
    """Those whose memory is moving on one of the devices; on the host nothing is profiled."""
    keys = [device.key for device in devices if not device.on_host]
    moving = [server for server in others if server.is_coming or server.is_going]
    return tuple(
        WaitFor(server.name, WaitReason.STARTING if server.is_coming else WaitReason.ENDING)
        for server in sorted(moving, key=lambda server: server.name)
        if any(server.on(key) for key in keys)
    )


def _actions(steps: Sequence[Step], waits: Sequence[WaitFor]) -> tuple[Action, ...]:
    """Nobody is put to sleep for a start that has to wait anyhow: by then it may not be needed."""
    found = [action_of(step) for step in steps]
    waiting = {action.name: action for action in (*found, *waits) if isinstance(action, WaitFor)}
    if any(action.reason is not WaitReason.ENDING for action in waiting.values()):
        return tuple(waiting.values())
    return (*waiting.values(), *(action for action in found if not isinstance(action, WaitFor)))


def _decision(
    request: StartRequest, found: _Placement, others: Sequence[UpServer], world: World, policy: Policy
) -> Decision:
    actions = _actions(found.steps, found.waits)
    gone = {step.server.name for step in found.steps}
    awake = [
        server
        for server in others
        if server.name not in gone
        and not server.is_going
        and (server.state is ServerState.READY or server.is_coming)
        and any(server.on(device.key) for device in found.devices)
    ]
    rooms = tuple(_room(device, found.steps, others) for device in found.devices)
    crowded = any(_strangers(device, world) > policy.strangers_bytes for device in found.devices)
    share = share_of(
        found.need,
        request.flags,
        rooms,
        has_neighbours=bool(awake) or crowded,
        can_sleep=request.can_sleep,
        policy=policy,
    )
    free = [(device, _available(device, others)) for device in found.devices]
    neighbours = [server.name for server in awake]
    return Decision(
        actions=actions,
        device_keys=tuple(device.key for device in found.devices),
        device_uuids=tuple(device.uuid for device in found.devices if device.uuid),
        options_to_add={**_split(request, found.need), **share.options},
        env_to_add=_visible(request, found.devices, world),
        need=found.need,
        will_hold=share.will_hold,
        budget_bytes=share.budget_bytes,
        is_doubtful=found.is_doubtful,
        words=start_words(request.name, found.need, free, actions, neighbours, is_doubtful=found.is_doubtful),
    )


def _room(device: Device, steps: Sequence[Step], others: Sequence[UpServer]) -> Room:
    """The device as it will be once the steps are done."""
    falling = {step.server.name: step for step in steps if step.grade in (Grade.SLEEP, Grade.AWAIT_END)}
    gone = {step.server.name for step in steps} - falling.keys()
    sleeping = 0
    for server in others:
        held = server.held.get(device.key, 0)
        if server.name in falling:
            sleeping += held - falling[server.name].freed.get(device.key, 0)
        elif server.state is ServerState.ASLEEP and server.name not in gone:
            sleeping += held
    freed = sum(step.freed.get(device.key, 0) for step in steps)
    return Room(device, min(_available(device, others) + freed, device.total_bytes), sleeping)


def _strangers(device: Device, world: World) -> int:
    """What is used and held by none of ours."""
    ours = sum(server.held.get(device.key, 0) for server in world.servers)
    return device.total_bytes - device.free_bytes - ours


def _split(request: StartRequest, need: MemoryNeed) -> dict[str, object]:
    chosen = request.flags.tensor_parallel_size is not None or need.tensor_parallel_size == 1
    return {} if chosen else {"tensor-parallel-size": need.tensor_parallel_size}


def _visible(request: StartRequest, devices: Sequence[Device], world: World) -> dict[str, str]:
    """Which GPUs vLLM shall see, by UUID: numbers mean something else to CUDA than to NVML.

    In full: vLLM knows no shortened ones (vllm#51677).

    Nothing where the user has said it, where there is only one, or where one has no UUID.
    """
    assert request.places is not None
    only_one = len(world.devices) == 1 and world.devices[0].index == 0
    if request.places.is_fixed or only_one or not all(device.uuid for device in devices):
        return {}
    return {VISIBLE: ",".join(device.uuid or "" for device in devices)}
