"""Telling servers apart on a GPU that shows no processes of ours, by how its memory moves."""

from __future__ import annotations

from dataclasses import replace

from server_manager.server_state import ServerState, ServerStatus
from server_manager.telemetry.base import DeviceSnapshot
from server_manager.telemetry.differences import DifferenceTracker

GIB = 1 << 30


class Machine:
    """One or two GPUs and some servers; each step is one reading, a second after the last."""

    def __init__(self, *used: float) -> None:
        self.now = 1000.0
        self.used = list(used)
        self.statuses: dict[str, ServerStatus] = {}
        self.tracker = DifferenceTracker(since=1000.0)
        self.read()

    def read(self, seconds: float = 1.0) -> None:
        self.now += seconds
        devices = [
            DeviceSnapshot(index, None, None, memory_used_bytes=int(used * GIB)) for index, used in enumerate(self.used)
        ]
        self.tracker.take(devices, self.statuses.values(), self.now)

    def becomes(self, name: str, state: ServerState, *, started_at: float | None = None) -> None:
        status = self.statuses.get(name, ServerStatus(name))
        if state is ServerState.STARTING:
            status = replace(status, started_at=self.now if started_at is None else started_at)
        self.statuses[name] = replace(status, state=state, since=self.now)

    def step(self, gib: float, gpu: int = 0) -> None:
        self.used[gpu] += gib
        self.read()

    def held(self, name: str) -> list[float] | None:
        found = self.tracker.held(name)
        return None if found is None else [found.get(index, 0) / GIB for index in range(len(self.used))]


def start(machine: Machine, name: str, gib: float, gpu: int = 0) -> None:
    machine.becomes(name, ServerState.STARTING)
    machine.read()
    machine.step(gib * 0.75, gpu)
    machine.step(gib * 0.25, gpu)
    machine.becomes(name, ServerState.READY)
    machine.read(seconds=60)


def test_what_is_taken_during_a_start_is_the_servers() -> None:
    machine = Machine(5, 0)
    start(machine, "alpha", 20, gpu=1)
    assert machine.held("alpha") == [0, 20]


def test_what_others_take_later_is_not() -> None:
    machine = Machine(5)
    start(machine, "alpha", 20)
    machine.step(10)
    machine.step(-4)
    assert machine.held("alpha") == [20]


def test_the_second_server_has_its_own() -> None:
    machine = Machine(0)
    start(machine, "alpha", 20)
    start(machine, "beta", 12)
    assert (machine.held("alpha"), machine.held("beta")) == ([20], [12])


def test_sleep_and_wake_are_followed() -> None:
    machine = Machine(1)
    start(machine, "alpha", 20)
    machine.becomes("alpha", ServerState.ASLEEP)
    machine.step(-19)
    assert machine.held("alpha") == [1]
    machine.read(seconds=600)
    machine.step(3)  # somebody else, long after
    assert machine.held("alpha") == [1]
    machine.becomes("alpha", ServerState.READY)
    machine.step(19)
    assert machine.held("alpha") == [20]


def test_a_server_that_has_ended_holds_nothing_and_begins_anew() -> None:
    machine = Machine(0)
    start(machine, "alpha", 20)
    machine.becomes("alpha", ServerState.STOPPING)
    machine.step(-20)
    machine.becomes("alpha", ServerState.STOPPED)
    machine.read()
    assert machine.held("alpha") is None
    start(machine, "alpha", 8)
    assert machine.held("alpha") == [8]


def test_one_that_stops_takes_nothing_from_one_that_starts() -> None:
    machine = Machine(0)
    start(machine, "alpha", 20)
    machine.becomes("beta", ServerState.STARTING)
    machine.becomes("alpha", ServerState.STOPPING)
    machine.step(-20)
    machine.becomes("alpha", ServerState.STOPPED)
    machine.step(12)
    assert (machine.held("alpha"), machine.held("beta")) == (None, [12])


def test_two_that_start_at_once_share() -> None:
    machine = Machine(0)
    machine.becomes("alpha", ServerState.STARTING)
    machine.becomes("beta", ServerState.STARTING)
    machine.step(30)
    assert (machine.held("alpha"), machine.held("beta")) == ([15], [15])


def test_an_adopted_server_is_unknown() -> None:
    machine = Machine(20)
    machine.becomes("alpha", ServerState.STARTING, started_at=10.0)  # before we were
    machine.becomes("alpha", ServerState.READY)
    machine.read()
    assert machine.held("alpha") is None


def test_nothing_is_ever_negative() -> None:
    machine = Machine(50)
    start(machine, "alpha", 2)
    machine.becomes("alpha", ServerState.STOPPING)
    machine.step(-30)
    assert machine.held("alpha") == [0]
