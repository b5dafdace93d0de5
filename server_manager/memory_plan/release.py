"""Which servers make room, and how: the fewest and gentlest steps, least recently used first.

1. Memory of a server that is ending or falling asleep is waited for.
2. Idle servers are put to sleep: at level 1 while the machine's memory lasts, at level 2 when it does not.
3. Where that is not enough, sleeping servers, and idle ones that cannot sleep (enough), are stopped.
4. Only when the caller allows it: servers that are starting, waking or in use are waited for.

Then every step that turns out not to be needed is taken back, the gravest and the most recently used first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from server_manager.memory_plan.world import Policy, UpServer
from server_manager.server_state import ServerState


class WaitReason(StrEnum):
    """What a server is waited for."""

    ENDING = "ending"
    """Its memory is coming free: it ends, or falls asleep."""
    STARTING = "starting"
    """It starts or wakes. Two starts on one GPU spoil each other's memory profiling."""
    IN_USE = "in_use"
    """Somebody is being answered."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Put this server to sleep."""

    name: str
    level: int
    freed_bytes: int
    """What is to come free, over all devices."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop this server."""

    name: str
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Do nothing until this server has moved on, then decide anew."""

    name: str
    reason: WaitReason


Action = Sleep | Stop | WaitFor


class Grade(IntEnum):
    """How grave a step is, least first."""

    AWAIT_END = 0
    SLEEP = 1
    STOP = 2
    AWAIT = 3


@dataclass(frozen=True, slots=True)
class Step:
    """One server's part in making room. ``freed`` is bytes by device."""

    server: UpServer
    grade: Grade
    freed: Mapping[str, int]
    level: int = 0


def make_room(
    shortfall: Mapping[str, int],
    servers: Sequence[UpServer],
    *,
    waiting: bool,
    host_available_bytes: int | None,
    policy: Policy,
) -> tuple[Step, ...] | None:
    """The steps after which at least ``shortfall`` bytes more are free on each device, or ``None``.

    ``waiting`` allows to wait for servers that cannot be touched now.
    """
    here = [server for server in servers if any(shortfall.get(key, 0) > 0 and held for key, held in _all(server))]
    ladder = _ladder(here, waiting=waiting, host_available_bytes=host_available_bytes, policy=policy)
    taken: dict[str, Step] = {}
    for step in ladder:
        if _is_enough(shortfall, taken.values()):
            break
        if any(step.freed.get(key, 0) for key, missing in shortfall.items() if missing > 0):
            taken[step.server.name] = step  # a stop replaces the same server's sleep
    if not _is_enough(shortfall, taken.values()):
        return None
    return _without_needless(shortfall, taken, ladder)


def action_of(step: Step) -> Action:
    """The step as what is to be done."""
    server, freed = step.server, sum(step.freed.values())
    if step.grade is Grade.SLEEP:
        return Sleep(server.name, step.level, freed)
    if step.grade is Grade.STOP:
        return Stop(server.name, freed)
    if server.is_going:
        return WaitFor(server.name, WaitReason.ENDING)
    return WaitFor(server.name, WaitReason.IN_USE if server.in_use else WaitReason.STARTING)


def _all(server: UpServer) -> Iterable[tuple[str, int]]:
    return {**server.held, **(server.will_hold if server.is_coming else {})}.items()


def _ladder(
    servers: Sequence[UpServer], *, waiting: bool, host_available_bytes: int | None, policy: Policy
) -> list[Step]:
    """Every step that could be taken, in the order in which they are."""
    by_use = sorted(servers, key=lambda server: (server.last_used, server.name))
    ending = [server for server in by_use if server.is_going]
    others = [server for server in by_use if server.may_be_freed and not server.is_going]
    steady = [server for server in others if not (server.in_use or server.is_coming)]
    steps = [Step(server, Grade.AWAIT_END, server.freed_by_going()) for server in ending]
    host_left = (host_available_bytes or 0) - policy.host_spare_bytes
    for server in steady:
        if server.state is not ServerState.READY or not server.sleep_levels:
            continue
        freed = server.freed_asleep()
        pinned = sum(freed.values()) if server.host_bytes is None else server.host_bytes
        level = next((level for level in server.sleep_levels if level != 1 or pinned <= host_left), None)
        if level is None:
            continue
        host_left -= pinned if level == 1 else 0
        steps.append(Step(server, Grade.SLEEP, freed, level))
    steps += [
        Step(server, Grade.STOP, server.held)
        for server in steady
        if server.state in (ServerState.READY, ServerState.ASLEEP)
    ]
    if waiting:
        restless = [server for server in by_use if server.may_be_freed and server not in steady]
        steps += [Step(server, Grade.AWAIT, dict(_all(server))) for server in restless]
    return steps


def _without_needless(
    shortfall: Mapping[str, int], taken: Mapping[str, Step], ladder: Sequence[Step]
) -> tuple[Step, ...]:
    """Takes back what is not needed, or not so gravely: a stop becomes a sleep where that is enough."""
    kept = dict(taken)
    sleeps = {step.server.name: step for step in ladder if step.grade is Grade.SLEEP}
    for step in sorted(taken.values(), key=lambda step: (step.grade, step.server.last_used), reverse=True):
        name = step.server.name
        rest = {key: value for key, value in kept.items() if key != name}
        if _is_enough(shortfall, rest.values()):
            kept = rest
        elif step.grade is Grade.STOP and name in sleeps:
            trial = {**rest, name: sleeps[name]}
            kept = trial if _is_enough(shortfall, trial.values()) else kept
    return tuple(sorted(kept.values(), key=lambda step: (step.grade, step.server.last_used, step.server.name)))


def _is_enough(shortfall: Mapping[str, int], steps: Iterable[Step]) -> bool:
    steps = list(steps)
    return all(sum(step.freed.get(key, 0) for step in steps) >= missing for key, missing in shortfall.items())
