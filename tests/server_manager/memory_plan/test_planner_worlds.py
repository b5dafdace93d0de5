"""What holds for the planner's decisions in thousands of random worlds."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest
from plan_worlds import GIB, answer, gib, gpu, need

from server_manager.errors import InsufficientMemory
from server_manager.memory_plan.chosen import VLLM_DEFAULT_SHARE
from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.need import MemoryNeed, NeedBasis
from server_manager.memory_plan.planner import decide_wake
from server_manager.memory_plan.release import Sleep, Stop, WaitFor, WaitReason
from server_manager.memory_plan.words import Account
from server_manager.memory_plan.world import Device, Policy, UpServer, World
from server_manager.server_state import ServerState

SPARE = Policy().spare_bytes
SEEDS = range(10)
PER_SEED = 40
each_seed = pytest.mark.parametrize("seed", SEEDS)


def worlds(seed: int) -> Iterator[tuple[random.Random, World, tuple[MemoryNeed, ...], dict[str, object]]]:
    for number in range(PER_SEED):
        dice = random.Random(seed * 1000 + number)
        yield dice, random_world(dice), random_needs(dice), random_options(dice)


def random_world(dice: random.Random) -> World:
    devices = [gpu(index, total=dice.choice((16, 24, 48, 79.18))) for index in range(dice.randint(1, 4))]
    left = {device.key: device.total_bytes for device in devices}
    if dice.random() < 0.3:
        left[dice.choice(devices).key] -= gib(dice.uniform(0.3, 12))  # other people's
    servers = []
    for number in range(dice.randint(0, 5)):
        server = random_server(dice, f"s{number}", devices, left)
        for key in server.held:
            left[key] -= max(server.held[key], server.will_hold.get(key, 0) if server.is_coming else 0)
        servers.append(server)
    free = {
        key: amount + sum(max(0, s.will_hold.get(key, 0) - s.held.get(key, 0)) for s in servers if s.is_coming)
        for key, amount in left.items()
    }
    shown = tuple(replace(device, free_bytes=free[device.key]) for device in devices)
    return World(shown, tuple(servers), dice.choice((None, gib(dice.uniform(1, 120)))))


def random_server(dice: random.Random, name: str, devices: list[Device], left: Mapping[str, int]) -> UpServer:
    on = dice.sample(devices, dice.choice((1, 1, 1, min(2, len(devices)))))
    most = max(0, min(left[device.key] for device in on) - GIB // 4)
    full = min(most, gib(dice.uniform(2, 75)))
    state = dice.choice(
        [ServerState.READY] * 5 + [ServerState.ASLEEP] * 3 + [ServerState.STARTING, ServerState.STOPPING]
    )
    kept = min(full, gib(dice.uniform(1, 2.5)))
    held = full if state in (ServerState.READY, ServerState.STOPPING) else kept
    falling = state is ServerState.READY and dice.random() < 0.1
    if falling and dice.random() < 0.5:
        state = ServerState.ASLEEP  # a server is told to be asleep from the moment in which it begins to be
    return UpServer(
        name,
        state,
        held={device.key: held for device in on},
        will_hold={device.key: full for device in on},
        residue={device.key: kept for device in on} if dice.random() < 0.9 else {},
        last_used=dice.choice((0, dice.uniform(0, 100))),
        in_use=state is ServerState.READY and not falling and dice.random() < 0.3,
        is_waking=state is ServerState.ASLEEP and not falling and dice.random() < 0.1,
        is_falling_asleep=falling,
        may_be_freed=dice.random() < 0.85,
        sleep_levels=dice.choice(((1, 2), (1, 2), (1,), (2,), ())),
        host_bytes=dice.choice((None, gib(dice.uniform(1, 40)))),
    )


def random_needs(dice: random.Random) -> tuple[MemoryNeed, ...]:
    weights, kv, overhead = dice.uniform(0.5, 90), dice.uniform(0.1, 12), dice.uniform(1.5, 6)
    return tuple(need(weights / n, kv=kv / n, overhead=overhead, gpus=n) for n in (1, 2, 4)[: dice.randint(1, 3)])


def random_options(dice: random.Random) -> dict[str, object]:
    options: dict[str, object] = {}
    if dice.random() < 0.2:
        options["gpu-memory-utilization"] = round(dice.uniform(0.1, 0.9), 2)
    if dice.random() < 0.1:
        options["tensor-parallel-size"] = 1
    return options


def demanded(need: MemoryNeed, options: Mapping[str, object], device: Device) -> int:
    """What must be free there, as stated by vLLM's check and the need: written anew on purpose."""
    share = options.get("gpu-memory-utilization")
    if share is None:
        assert need.least_bytes is not None
        return need.least_bytes + SPARE
    asked = math.ceil(float(str(share)) * device.total_bytes)
    return min(asked + need.context_bytes, max(asked, device.total_bytes - GIB // 2))


def is_moving(server: UpServer) -> bool:
    return server.is_coming or server.is_going


def free_after(world: World, decision: Decision, *, leave_out: str | None = None) -> dict[str, int]:
    """Free by device once the actions are done, less what starting servers will take."""
    free = {device.key: device.free_bytes for device in world.devices}
    actions = {action.name: action for action in decision.actions if action.name != leave_out}
    for server in world.servers:
        action = actions.get(server.name)
        for key, held in server.held.items():
            gone = isinstance(action, Stop) or (action and server.state is ServerState.STOPPING)
            asleep = isinstance(action, Sleep) or (action and server.is_falling_asleep)
            free[key] += held if gone else held - server.residue.get(key, held) if asleep else 0
            if server.is_coming:
                free[key] -= max(0, server.will_hold.get(key, 0) - held)
    return free


@each_seed
def test_never_more_than_there_is(seed: int) -> None:
    for _, world, needs, options in worlds(seed):
        found = answer(world, *needs, options=options)
        if not isinstance(found, Decision) or found.waits:
            continue
        free = free_after(world, found)
        for key in found.device_keys:
            device = world.device(key)
            assert device is not None
            assert found.need is not None
            assert free[key] >= demanded(found.need, options, device)
            if "gpu-memory-utilization" in options:
                continue
            assert found.will_hold[key] <= free[key]
            share = float(str(found.options_to_add.get("gpu-memory-utilization", VLLM_DEFAULT_SHARE)))
            assert math.ceil(share * device.total_bytes) <= free[key] - found.need.context_bytes, "vLLM's own check"
            assert found.will_hold[key] >= (found.need.least_bytes or 0) - 16 * 2**20, "one request fits"


@each_seed
def test_nobody_is_touched_who_must_not_be(seed: int) -> None:
    for _, world, needs, options in worlds(seed):
        found = answer(world, *needs, options=options)
        if not isinstance(found, Decision):
            continue
        servers = {server.name: server for server in world.servers}
        pinned = 0
        for action in found.actions:
            server = servers[action.name]
            if isinstance(action, WaitFor):
                assert server.in_use or is_moving(server)
                assert (action.reason is WaitReason.IN_USE) <= server.in_use
                continue
            assert not server.in_use
            assert not is_moving(server)
            assert server.may_be_freed
            if isinstance(action, Sleep):
                assert server.state is ServerState.READY
                assert action.level in server.sleep_levels
                most = sum(server.freed_asleep().values()) if server.host_bytes is None else server.host_bytes
                pinned += most if action.level == 1 else 0
        assert pinned <= max(0, (world.host_available_bytes or 0) - Policy().host_spare_bytes)


@each_seed
def test_no_step_is_too_many(seed: int) -> None:
    for _, world, needs, options in worlds(seed):
        found = answer(world, *needs, options=options)
        if not isinstance(found, Decision) or found.waits:
            continue
        for action in found.actions:
            free = free_after(world, found, leave_out=action.name)
            devices = [device for device in world.devices if device.key in found.device_keys]
            assert found.need is not None
            assert any(free[device.key] < demanded(found.need, options, device) for device in devices), action


@each_seed
def test_nothing_is_done_where_it_fits_and_nothing_split_without_need(seed: int) -> None:
    for _, world, needs, options in worlds(seed):
        found = answer(world, *needs, options=options)
        free = free_after(world, Decision())
        quiet = [
            device
            for device in world.devices
            if free[device.key] >= demanded(needs[0], options, device)
            and not any(is_moving(server) and server.on(device.key) for server in world.servers)
        ]
        if quiet and needs[0].gpu_count == 1:
            assert isinstance(found, Decision)
            assert found.actions == ()
            assert found.need == needs[0]
            assert free[found.device_keys[0]] == max(free[device.key] for device in quiet), "most free first"


@each_seed
def test_flags_are_only_added_and_devices_are_as_many_as_needed(seed: int) -> None:
    for _, world, needs, options in worlds(seed):
        found = answer(world, *needs, options=options)
        if isinstance(found, Decision) and found.need is not None:
            assert not options.keys() & found.options_to_add.keys()
            assert len(set(found.device_keys)) == found.need.gpu_count
            assert set(found.options_to_add) <= {
                "gpu-memory-utilization",
                "kv-cache-memory-bytes",
                "tensor-parallel-size",
            }
            assert found.words.endswith(".")


@each_seed
def test_same_world_same_answer_in_whatever_order_it_is_told(seed: int) -> None:
    for dice, world, needs, options in worlds(seed):
        found = answer(world, *needs, options=options)
        shuffled = replace(world, servers=tuple(dice.sample(world.servers, len(world.servers))))
        again = answer(shuffled, *needs, options=options)
        assert str(found) == str(again) if isinstance(found, InsufficientMemory) else found == again


@each_seed
def test_refusals_are_right_and_their_numbers_add_up(seed: int) -> None:
    for _, world, needs, options in worlds(seed):
        found = answer(world, *needs, options=options)
        if isinstance(found, Decision):
            continue
        accounts = found.facts["devices"]
        assert isinstance(accounts, list)
        for account in accounts:
            assert isinstance(account, Account)
            assert account.free_bytes + account.freeable_bytes + sum(account.kept.values()) == account.total_bytes
        for each in needs:
            can = [device for device in world.devices if _at_most(world, device) >= demanded(each, options, device)]
            assert len(can) < each.gpu_count, "it would fit"
        if "gpu-memory-utilization" not in options:
            parts = ("weights_bytes", "kv_cache_bytes", "overhead_bytes")
            assert sum(int(str(found.facts[part])) for part in parts) + SPARE == found.facts["requested_bytes"]


@each_seed
def test_there_is_an_answer_whatever_is_not_known(seed: int) -> None:
    for dice, world, needs, options in worlds(seed):
        vague = [replace(each, basis=NeedBasis.COMPUTED) for each in needs]
        if dice.random() < 0.5:
            vague = [replace(each, weights_bytes=None, basis=NeedBasis.UNKNOWN) for each in needs]
        order = dice.sample(range(len(world.devices)), dice.randint(1, len(world.devices)))
        found = answer(world, *vague, options=options, fixed=tuple(order) if dice.random() < 0.5 else None)
        if isinstance(found, Decision):
            share = float(str(found.options_to_add.get("gpu-memory-utilization", VLLM_DEFAULT_SHARE)))
            assert 0 < share <= 1
            free = free_after(world, found)
            for key in found.device_keys:
                if not found.waits and not options.get("gpu-memory-utilization"):
                    device = world.device(key)
                    assert device is not None
                    assert math.ceil(share * device.total_bytes) <= free[key], "vLLM's own check, also when in doubt"
        else:
            assert found.next_step


def _at_most(world: World, device: Device) -> int:
    """Free once everybody who may go is gone, however long that takes."""
    can_go = [server for server in world.servers if server.may_be_freed or server.state is ServerState.STOPPING]
    freed = sum(server.held.get(device.key, 0) for server in can_go)
    stays = [server for server in world.servers if server not in can_go and server.is_coming]
    return (
        device.free_bytes
        + freed
        - sum(max(0, server.will_hold.get(device.key, 0) - server.held.get(device.key, 0)) for server in stays)
    )


@each_seed
def test_doing_what_it_says_leads_to_a_start(seed: int) -> None:
    """Also when servers keep more asleep than was predicted: it is decided anew over what came free in fact."""
    for dice, world, needs, options in worlds(seed):
        found = answer(world, *needs, options=options)
        for _ in range(12):
            if not isinstance(found, Decision) or not found.actions:
                break
            world = _done(world, found, more_residue=dice.choice((1.0, 1.2)))
            found = answer(world, *needs, options=options)
        assert not isinstance(found, Decision) or not found.actions, "it goes round in circles"


@each_seed
def test_wakes_keep_to_the_same_rules(seed: int) -> None:
    for _, world, _, _ in worlds(seed):
        for sleeper in world.servers:
            if sleeper.state is not ServerState.ASLEEP or is_moving(sleeper):
                continue
            found = decide_wake(sleeper.name, world)
            if not isinstance(found, Decision):
                continue
            assert sleeper.name not in {action.name for action in found.actions}
            if not found.waits:
                free = free_after(world, found)
                back = {key: full - sleeper.held[key] for key, full in sleeper.will_hold.items()}
                assert all(free[key] >= amount for key, amount in back.items() if amount > 0)


def _done(world: World, decision: Decision, *, more_residue: float) -> World:
    """The world after the actions were done and what was waited for has happened."""
    actions = {action.name: action for action in decision.actions}
    servers = []
    for server in world.servers:
        action = actions.get(server.name)
        after: UpServer | None = server
        if isinstance(action, Stop) or (action and server.state is ServerState.STOPPING):
            after = None
        elif isinstance(action, Sleep) or (action and server.is_falling_asleep):
            kept = {
                key: min(held, int(server.residue.get(key, held) * more_residue)) for key, held in server.held.items()
            }
            after = replace(server, state=ServerState.ASLEEP, held=kept, is_falling_asleep=False)
        elif isinstance(action, WaitFor):
            held = server.will_hold if server.is_coming else server.held
            after = replace(server, state=ServerState.READY, held=held, in_use=False, is_waking=False)
        if after is not None:
            servers.append(after)
    before = {key: sum(s.held.get(key, 0) for s in world.servers) for key in (d.key for d in world.devices)}
    now = {key: sum(s.held.get(key, 0) for s in servers) for key in before}
    devices = tuple(replace(d, free_bytes=d.free_bytes + before[d.key] - now[d.key]) for d in world.devices)
    return replace(world, devices=devices, servers=tuple(servers))
