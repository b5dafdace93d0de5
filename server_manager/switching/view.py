"""What the page shows of switching: what a pick costs, who wakes, and what a server was planned to hold.

What it costs comes from files and hubs (``costs``). They are read in a thread, at most every few seconds, and only as
long as somebody looks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from server_manager.hub_sizes import HubSizes
from server_manager.memory_plan.cost import CostKind, SwitchCost, switch_cost
from server_manager.memory_plan.history import MemoryHistory
from server_manager.memory_plan.world import World
from server_manager.model_spec import ModelSpec
from server_manager.server_state import ServerState, ServerStatus
from server_manager.settings import Settings
from server_manager.stop_receipt import Readings
from server_manager.switching.costs import CostReader, Known, Look
from server_manager.switching.rooms import Board, Planned

log = logging.getLogger(__name__)

_LOOK_SECONDS = 3.0
"""Between two looks whether a history has changed."""
_READ_SECONDS = 60.0
"""What lies on the disk is looked up again after so long even where no history has changed."""


@dataclass(frozen=True, slots=True)
class SwitchView:
    """Of one server."""

    cost: SwitchCost | None = None
    """``None`` where it is not known yet, or nobody can pick it (an attached server that is away)."""
    moving: str | None = None
    """``waking`` or ``falling_asleep``, just now."""
    planned_bytes: int | None = None
    """What it was planned to hold of all its GPUs together, once it is ready."""


class Rooms(Protocol):
    """As far as they are looked at here."""

    planned: dict[str, Planned]

    async def as_it_is(self, board: Board) -> World | None: ...


class SwitchViews:
    """Of all servers. Methods belong to the event loop."""

    def __init__(
        self,
        settings: Settings,
        readings: Readings,
        specs: Callable[[], Sequence[ModelSpec]],
        rooms: Rooms,
        board: Board,
        memory: MemoryHistory,
        sizes: HubSizes,
    ) -> None:
        """``specs`` gives the catalogue with each model where its files are; it is asked in the event loop."""
        self._readings = readings
        self._specs = specs
        self._rooms = rooms
        self._board = board
        self._sizes = sizes
        self._costs = CostReader(settings, memory, sizes)
        self._known: Mapping[str, Known] = {}
        self._room_s: Mapping[str, float | None] = {}
        self._seen: object = None
        self._states: object = None
        self._looked_at = self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    def of(self, statuses: Mapping[str, ServerStatus]) -> dict[str, SwitchView]:
        """As things are now; begins a look at the files where the last one is old, or a state has changed since."""
        states = {name: status.state for name, status in statuses.items()}
        due = states != self._states or time.monotonic() - self._looked_at > _LOOK_SECONDS
        if due and (self._reading is None or self._reading.done()):
            self._states = states
            self._reading = asyncio.create_task(self.refresh(), name="costs of switching")
            self._reading.add_done_callback(_look_at)
        return {name: self._view(status) for name, status in statuses.items()}

    async def refresh(self) -> None:
        """Looks at the files, and reads them where something has changed."""
        self._looked_at = time.monotonic()
        reading = self._readings.latest
        planned = self._rooms.planned
        subjects = {name: each.subject for name, each in planned.items() if each.subject is not None}
        world = await self._rooms.as_it_is(self._board)
        look = Look(tuple(self._specs()), subjects, tuple(reading.devices) if reading else (), world)
        changes = await asyncio.to_thread(self._costs.changes)
        seen = (changes, look.specs, subjects, tuple(each.name for each in look.devices))
        if seen != self._seen or time.monotonic() - self._read_at >= _READ_SECONDS:
            self._known = await asyncio.to_thread(self._costs.read, look)
            self._seen, self._read_at = seen, time.monotonic()
            self._sizes.want(each.spec for each in self._known.values() if each.cold.kind is CostKind.DOWNLOAD)
        self._room_s = await asyncio.to_thread(self._costs.rooms, look, self._known)

    async def close(self) -> None:
        """Waits for a look that is on."""
        if self._reading is not None:
            await asyncio.wait({self._reading})

    # Parts

    def _view(self, status: ServerStatus) -> SwitchView:
        name = status.name
        moving = None
        if self._board.is_moving(name):
            moving = "waking" if self._board.is_waking(name) else "falling_asleep"
        planned = self._rooms.planned.get(name)
        holds = planned.decision.will_hold if planned and status.state is ServerState.READY else {}
        return SwitchView(self._cost(status), moving, sum(holds.values()) or None)

    def _cost(self, status: ServerStatus) -> SwitchCost | None:
        known = self._known.get(status.name)
        if status.state is ServerState.STARTING:
            return switch_cost(status.state, start_left_s=status.progress.eta_s if status.progress else None)
        if status.state is ServerState.ASLEEP:
            level = status.sleep.level if status.sleep else 1
            cost = known.asleep.get(level) if known else None
            if cost is None or cost.seconds is None:  # never measured with these flags, but perhaps in this life
                last = status.sleep.wake_s if status.sleep and level == 1 else None
                cost = SwitchCost(CostKind.ASLEEP, last)
            return self._with_room(status.name, cost)
        if status.state is ServerState.READY:
            return switch_cost(status.state)
        return None if status.attached or known is None else self._with_room(status.name, known.cold)

    def _with_room(self, name: str, cost: SwitchCost) -> SwitchCost:
        room_s = self._room_s.get(name, 0.0)
        seconds = None if cost.seconds is None or room_s is None else cost.seconds + room_s
        return replace(cost, seconds=seconds)


def _look_at(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("what switching costs cannot be told", exc_info=error)
