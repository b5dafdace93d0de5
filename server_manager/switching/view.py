"""What the page shows of switching: what a pick costs, who wakes, and what a server was planned to hold.

What it costs comes from files: the history of starts and that of memory, and the models' own. They are read in a
thread, at most every few seconds, and only as long as somebody looks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server_manager.bundled import bundled_models
from server_manager.memory_plan.cost import CostKind, SwitchCost, switch_cost
from server_manager.memory_plan.history import MemoryHistory
from server_manager.memory_plan.spec_shape import spec_shape
from server_manager.model_spec import ModelSpec, is_local
from server_manager.server_state import ServerState, ServerStatus
from server_manager.settings import Settings
from server_manager.start_history import StartHistory
from server_manager.start_subject import StartSubject, start_subject
from server_manager.stop_receipt import Readings
from server_manager.switching.rooms import SLEEP_LEVELS, Planned
from server_manager.telemetry.base import DeviceSnapshot

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


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found in files of one model."""

    cold: SwitchCost
    asleep: Mapping[int, SwitchCost] = field(default_factory=dict)
    """By the level of the sleep."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What the thread is handed."""

    specs: tuple[ModelSpec, ...]
    subjects: Mapping[str, StartSubject]
    devices: tuple[DeviceSnapshot, ...]


class Board(Protocol):
    """The switchboard, as far as it is looked at here."""

    def is_moving(self, name: str) -> bool: ...
    def is_waking(self, name: str) -> bool: ...


class SwitchViews:
    """Of all servers. Methods belong to the event loop."""

    def __init__(
        self,
        settings: Settings,
        readings: Readings,
        specs: Callable[[], Sequence[ModelSpec]],
        planned: Mapping[str, Planned],
        board: Board,
    ) -> None:
        """``specs`` gives the catalogue with each model where its files are; it is asked in the event loop."""
        self._settings = settings
        self._readings = readings
        self._specs = specs
        self._planned = planned
        self._board = board
        self._memory = MemoryHistory(settings.memory_history_path)
        self._starts = StartHistory(settings.start_history_path)
        self._known: Mapping[str, _Known] = {}
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
        subjects = {name: planned.subject for name, planned in self._planned.items() if planned.subject is not None}
        look = _Look(tuple(self._specs()), subjects, tuple(reading.devices) if reading else ())
        seen = (await asyncio.to_thread(self._changes), look.specs, subjects, tuple(each.name for each in look.devices))
        if seen == self._seen and time.monotonic() - self._read_at < _READ_SECONDS:
            return
        self._known = await asyncio.to_thread(self._read, look)
        self._seen, self._read_at = seen, time.monotonic()

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
        planned = self._planned.get(name)
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
            return cost
        if status.state is ServerState.READY:
            return switch_cost(status.state)
        return None if status.attached or known is None else known.cold

    def _changes(self) -> tuple[int, ...]:
        """When the histories were written last."""
        found = []
        for path in (self._settings.start_history_path, self._settings.memory_history_path):
            try:
                found.append(path.stat().st_mtime_ns)
            except OSError:  # not there yet
                found.append(0)
        return tuple(found)

    def _read(self, look: _Look) -> dict[str, _Known]:
        """Blocking."""
        python = self._settings.vllm_command[0]
        starts = {
            spec.name: start_subject(
                spec.model, spec.options, spec.vllm_env, devices=look.devices, vllm_python=python
            )
            for spec in look.specs
        }  # fmt: skip
        totals = self._starts.nearest_totals(starts)
        return {
            spec.name: self._known_of(spec, look.subjects.get(spec.name), totals.get(spec.name)) for spec in look.specs
        }

    def _known_of(self, spec: ModelSpec, subject: StartSubject | None, cold_start_s: float | None) -> _Known:
        needs_download = not is_local(spec.model) and spec.model not in bundled_models() and _is_missing(spec)
        history = self._memory if subject else None
        cold = switch_cost(
            ServerState.STOPPED,
            subject=subject,
            history=history,
            cold_start_s=cold_start_s,
            needs_download=needs_download,
        )
        asleep = {
            level: switch_cost(ServerState.ASLEEP, subject=subject, history=history, sleep_level=level)
            for level in (SLEEP_LEVELS if subject else ())
        }
        return _Known(cold, asleep)


def _is_missing(spec: ModelSpec) -> bool:
    """Whether files of a hub's model are still to come. How many bytes of them nobody knows without a request."""
    return spec_shape(spec).is_complete is not True


def _look_at(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("what switching costs cannot be told", exc_info=error)
