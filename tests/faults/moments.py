"""Faults in the moments of sleep: while a server sleeps, falls asleep, wakes, or sleeps for the first time."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx

from faults import faults
from faults.faults import FAULTS, Fault
from faults.sleepers import SleepyWorld, is_sleeping
from faults.world import World

Moment = Callable[[SleepyWorld, random.Random], AbstractContextManager[str | None]]
"""Brings a server into this moment for as long as the block lasts; its name, or ``None`` where that did not work."""


def put_to_sleep(world: World, chance: random.Random) -> str | None:
    if world.app is None or not (ready := sleepy(world).in_state("ready")):
        return None
    world.post(f"/api/servers/{chance.choice(ready)}/sleep?level={level(chance)}")
    return "sleep"


def wake(world: World, chance: random.Random) -> str | None:
    if world.app is None or not (asleep := sleepy(world).in_state("asleep")):
        return None
    world.post(f"/api/servers/{chance.choice(asleep)}/wake")
    return "wake"


def look_at_the_ledger(world: World, chance: random.Random) -> str | None:
    if world.app is None:
        return None
    sleepy(world).ask_ledger = True
    return "look at the ledger"


def another_started(world: World, chance: random.Random) -> str | None:
    """It may need the room of the one that is moving."""
    if world.app is None or world.target is None:
        return None
    other = chance.choice([name for name in world.models if name != world.target])
    world.post(f"/api/servers/{other}/start")
    return "start of another"


# Moments


@contextmanager
def asleep(world: SleepyWorld, chance: random.Random) -> Iterator[str | None]:
    yield a_sleeper(world, chance)


@contextmanager
def falling_asleep(world: SleepyWorld, chance: random.Random) -> Iterator[str | None]:
    assert world.app is not None
    name = one_that_is_awake(world, chance)
    with beside(world, f"/api/servers/{name}/sleep?level={level(chance)}"):
        until(lambda: world.state_of(name) != "ready", 5)  # the app says so before it tells vLLM
        time.sleep(chance.uniform(0, 0.4))
        yield name


@contextmanager
def waking(world: SleepyWorld, chance: random.Random) -> Iterator[str | None]:
    assert world.app is not None
    if (name := a_sleeper(world, chance)) is None:
        yield None
        return
    with beside(world, f"/api/servers/{name}/wake"):
        time.sleep(chance.uniform(0.05, 0.6))
        yield name


@contextmanager
def first_sleep(world: SleepyWorld, chance: random.Random) -> Iterator[str | None]:
    assert world.app is not None
    name = chance.choice(world.models)
    world.post(f"/api/servers/{name}/stop")
    world.post(f"/api/servers/{name}/start")

    def sleeps_or_is_over() -> bool:
        assert world.app is not None
        now = world.app.server(name)
        return now["phase"] == "first_sleep" or now["state"] != "starting"

    until(sleeps_or_is_over, world.start_seconds)
    yield name


MOMENTS: dict[str, Moment] = {
    "asleep": asleep,
    "falling asleep": falling_asleep,
    "waking": waking,
    "first sleep": first_sleep,
}
BEFALLING: dict[Fault, int] = {
    faults.api_server_killed: 4,
    faults.engine_killed: 4,
    faults.whole_tree_killed: 3,
    faults.group_terminated: 3,
    faults.guardian_killed: 3,
    faults.app_killed: 4,
    faults.app_terminated: 3,
    faults.app_killed_while_it_ends: 2,
    faults.app_and_server_killed: 3,
    faults.app_and_guardian_killed: 2,
    faults.everything_terminated: 2,
    faults.stop: 3,
    faults.fault_during_a_stop: 3,
    faults.start_in_the_middle_of_a_stop: 2,
    faults.frozen_and_stopped: 1,
    faults.closed_tab_during_a_start: 3,
    another_started: 3,
}
"""What may befall a server in such a moment, with weights."""


def at(moment: str) -> Fault:
    """One of ``BEFALLING`` in that moment. Afterwards the server is asked something (``SleepyWorld.prove``)."""

    def fault(world: World, chance: random.Random) -> str | None:
        if world.app is None:
            return None
        (befalling,) = chance.choices(list(BEFALLING), list(BEFALLING.values()))
        with MOMENTS[moment](sleepy(world), chance) as name:
            if name is None:
                return None
            world.target = name
            try:
                what = befalling(world, chance)
            finally:
                world.target = None
        sleepy(world).to_prove[name] = None
        return f"{what} [{moment}]" if what else None

    return fault


SLEEP_FAULTS: dict[Fault, int] = {
    **FAULTS,
    put_to_sleep: 8,
    wake: 6,
    look_at_the_ledger: 4,
    at("asleep"): 30,
    at("falling asleep"): 30,
    at("waking"): 30,
    at("first sleep"): 15,
}
ON_A_CPU: dict[Fault, int] = {
    **FAULTS,
    put_to_sleep: 8,
    wake: 6,
    look_at_the_ledger: 4,
    at("asleep"): 30,
    at("falling asleep"): 10,
    at("waking"): 10,
}
"""There no server sleeps before it is asked to, and to sleep and to wake takes no time."""


# Parts


def sleepy(world: World) -> SleepyWorld:
    assert isinstance(world, SleepyWorld), "these faults need servers that sleep"
    return world


def level(chance: random.Random) -> int:
    return chance.choice([1, 1, 2])


def one_that_is_awake(world: SleepyWorld, chance: random.Random) -> str:
    """Started or woken by a question, if need be."""
    if ready := world.in_state("ready"):
        return chance.choice(ready)
    name = chance.choice(world.models)
    world.chat(name)
    return name


def a_sleeper(world: SleepyWorld, chance: random.Random) -> str | None:
    """Put to sleep, if need be, and deep in it; ``None`` where it ended instead."""
    if found := world.in_state("asleep"):
        name = chance.choice(found)
    else:
        name = one_that_is_awake(world, chance)
        world.post(f"/api/servers/{name}/sleep?level={level(chance)}")

    def sleeps() -> bool:
        return any(tree.name == name and is_sleeping(tree) for tree in world.trees())

    return name if until(lambda: sleeps() or world.state_of(name) != "asleep", 10) and sleeps() else None


def until(look: Callable[[], bool], seconds: float) -> bool:
    """Whether that came to be."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@contextmanager
def beside(world: SleepyWorld, path: str) -> Iterator[None]:
    """A request that goes on during the block, whatever becomes of the app."""
    assert world.app is not None
    url = f"{world.app.url}{path}"

    def post() -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(url, timeout=60, trust_env=False)

    asking = threading.Thread(target=post)
    asking.start()
    try:
        yield
    finally:
        asking.join()
