"""Looks at GPUs, servers and measured history, asks the memory planner what a change takes, and notes what it took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server_manager.errors import InsufficientMemory
from server_manager.memory_holders import holders
from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.history import MemoryHistory
from server_manager.memory_plan.measured import Measure, actual_figures
from server_manager.memory_plan.need import estimated_residue
from server_manager.memory_plan.planner import decide_start, decide_wake
from server_manager.memory_plan.release import Stop
from server_manager.memory_plan.start_request import Launching, start_request, subject_of
from server_manager.memory_plan.words import said
from server_manager.memory_plan.world import Device, UpServer, World, devices_of, held_by_server
from server_manager.model_spec import ModelSpec
from server_manager.phrases import Phrase, phrases_of
from server_manager.server_state import LIVE_STATES, ExitCause, ServerExit, ServerState, ServerStatus
from server_manager.start_subject import StartSubject
from server_manager.stop_receipt import Readings
from server_manager.switching.policy import is_switchable
from server_manager.switching.uses import Uses
from server_manager.telemetry.base import Reading
from server_manager.telemetry.ledger import Claim, MemoryLedger, device_ledgers

SLEEP_LEVELS = (1, 2)
"""The weights to host memory while that lasts, else they are dropped and read again."""


Ledgers = Callable[[Reading], Sequence[MemoryLedger]]
"""Who holds the memory of each GPU of a reading (``LedgerBook``)."""


def listed_ledgers(reading: Reading) -> Sequence[MemoryLedger]:
    """As far as the driver lists processes: without what is known from how the memory moves."""
    claims = [Claim(name, frozenset(pids)) for name, pids in reading.pids.items() if pids]
    return device_ledgers(reading.devices, claims, may_hide=False)


class Looked(Protocol):
    """A server, as far as it is looked at here."""

    @property
    def status(self) -> ServerStatus: ...


class Board(Protocol):
    """The switchboard, as far as it is looked at here."""

    uses: Uses

    def is_moving(self, name: str) -> bool: ...
    def is_waking(self, name: str) -> bool: ...
    def is_in_line(self, name: str) -> bool: ...
    def is_wanted(self, name: str) -> bool: ...


@dataclass(slots=True)
class Planned:
    """What the last start was planned with, by this app or an earlier one: kept until the next one of its server."""

    decision: Decision
    subject: StartSubject | None
    held_awake: Mapping[str, int] = field(default_factory=dict)
    """What it held when it was put to sleep, by device: that much it takes back."""


class Rooms:
    """One for all servers. Methods belong to the event loop."""

    def __init__(
        self,
        servers: Callable[[], Mapping[str, Looked]],
        readings: Readings,
        history: MemoryHistory,
        vllm_python: str,
        ledgers: Ledgers = listed_ledgers,
        hub_bytes: Callable[[ModelSpec], int | None] = lambda spec: None,
    ) -> None:
        """``hub_bytes`` tells of the weights of a model that is not here, as far as that is known already."""
        self._servers = servers
        self._hub_bytes = hub_bytes
        self._ledgers = ledgers
        self._readings = readings
        self._history = history
        self._vllm_python = vllm_python
        self.planned: dict[str, Planned] = {}
        self._preferred: dict[str, tuple[str, float | None]] = {}
        """With the time of its start: one that was started again since is not meant any more."""
        self._spared: dict[str, str | None] = {}

    def prefer(self, name: str, first: str | None, spared: str | None) -> None:
        """For the next time that ``name`` comes up: who is to make room first, and who is not to."""
        self._preferred.pop(name, None)
        if first is not None:
            self._preferred[name] = first, self._servers()[first].status.started_at
        self._spared[name] = spared

    def _first_to_go(self, name: str) -> str | None:
        first, started_at = self._preferred.get(name, (None, None))
        if first is None or first not in self._servers():
            return None
        status = self._servers()[first].status
        return first if status.state in LIVE_STATES and status.started_at == started_at else None

    async def for_start(self, spec: ModelSpec, model: str, board: Board) -> Decision | InsufficientMemory:
        """What a start takes; ``model`` is where its files are."""
        reading = await self._readings.fresh_reading()
        devices = devices_of(reading.devices)
        if not devices:
            return self._without_gpus(spec.name)
        world = await self._world(spec.name, reading, devices, board)
        launching = Launching(spec.name, model, spec.options, spec.vllm_env, self._vllm_python)
        request = await asyncio.to_thread(
            start_request,
            launching,
            world,
            self._history,
            can_sleep=is_switchable(spec),
            hub_size=lambda _: self._hub_bytes(spec),
        )
        decision = decide_start(request, world)
        if isinstance(decision, InsufficientMemory):
            return _more_about(decision, reading, spec)
        subject = await asyncio.to_thread(subject_of, launching, world, decision)
        self.planned[spec.name] = Planned(decision, subject)
        return decision

    async def for_wake(self, name: str, board: Board, fresh: bool) -> Decision | InsufficientMemory:
        """What a wake takes, by a fresh reading or by the latest."""
        latest = self._readings.latest
        reading = await self._readings.fresh_reading() if fresh or latest is None else latest
        devices = devices_of(reading.devices)
        if not devices:
            return self._without_gpus(name)
        return decide_wake(name, await self._world(name, reading, devices, board))

    async def as_it_is(self, board: Board) -> World | None:
        """Everything by the latest reading, for nobody in particular; ``None`` without GPUs."""
        reading = self._readings.latest
        devices = devices_of(reading.devices) if reading is not None else ()
        return await self._world("", reading, devices, board) if reading is not None and devices else None

    def adopted(self, name: str, will_hold: Mapping[str, int]) -> None:
        """A server that an earlier app has planned with so many bytes on each device."""
        self.planned[name] = Planned(Decision(will_hold=dict(will_hold)), None)

    # What it took

    def before_sleep(self, name: str) -> None:
        """It is about to be put to sleep: what it holds now it will take back."""
        reading = self._readings.latest
        if (planned := self.planned.get(name)) and reading is not None and (held := self._held(reading).get(name)):
            planned.held_awake = held

    async def after_start(self, name: str) -> None:
        """It has become ready."""
        planned, status = self.planned.get(name), self._servers()[name].status
        if planned is None or planned.subject is None:
            return
        reading = await self._readings.fresh_reading()
        if figures := actual_figures(status.memory, self._held(reading).get(name, {})):
            await asyncio.to_thread(self._history.record_start, planned.subject, planned.decision, figures)
        if status.sleep is not None and status.sleep.first_sleep_s is not None:
            await self._note(planned.subject, Measure.FIRST_SLEEP_S, status.sleep.first_sleep_s)
        if status.sleep is not None and status.sleep.wake_s is not None:  # from its first sleep
            await self._note(planned.subject, Measure.WAKE_S, status.sleep.wake_s)

    async def after_sleep(self, name: str) -> None:
        """It has fallen asleep."""
        planned, view = self.planned.get(name), self._servers()[name].status.sleep
        if planned is None or planned.subject is None or view is None or not view.frees_memory:
            return
        reading = await self._readings.fresh_reading()
        if held := self._held(reading).get(name):
            await self._note(planned.subject, Measure.RESIDUE_BYTES, max(held.values()))
        if view.sleep_s is not None:
            await self._note(planned.subject, Measure.LATER_SLEEP_S, view.sleep_s)

    async def after_wake(self, name: str, level: int) -> None:
        """It has been woken from that level."""
        planned, view = self.planned.get(name), self._servers()[name].status.sleep
        if planned is not None and planned.subject is not None and view is not None and view.wake_s is not None:
            await self._note(planned.subject, Measure.RELOAD_S if level == 2 else Measure.WAKE_S, view.wake_s)

    async def after_stop(self, name: str, end: ServerExit) -> None:
        """It was stopped to make room."""
        planned = self.planned.get(name)
        if planned is not None and planned.subject is not None and end.cause is ExitCause.STOPPED:
            await self._note(planned.subject, Measure.STOP_S, end.seconds)

    async def _note(self, subject: StartSubject, measure: Measure, value: float) -> None:
        await asyncio.to_thread(self._history.record, subject, measure, value)

    # Parts

    def _held(self, reading: Reading) -> Mapping[str, Mapping[str, int]]:
        """In bytes by server and device; one that is missing: not known."""
        return held_by_server(self._ledgers(reading), reading.devices)

    def _without_gpus(self, name: str) -> Decision:
        """On a CPU nothing sleeps and nothing is planned: the server that one switches from is stopped."""
        leaving = self._first_to_go(name)
        if leaving is None:
            return Decision()
        return Decision(actions=(Stop(leaving, 0),), words=said(Phrase("plan_stopping", {"server": leaving})))

    async def _world(
        self,
        name: str,
        reading: Reading,
        devices: tuple[Device, ...],
        board: Board,
    ) -> World:
        up = {
            other: server.status
            for other, server in self._servers().items()
            if server.status.state in LIVE_STATES
            and not server.status.attached
            # One whose turn is still to come holds nothing: whoever waited for it would wait for ever, it being behind.
            and not (other != name and server.status.state is ServerState.STARTING and board.is_in_line(other))
        }
        residues = await asyncio.to_thread(self._residues, tuple(up))
        held = self._held(reading)
        servers = tuple(
            self._up_server(name, status, held.get(other), board, residues[other]) for other, status in up.items()
        )
        return World(devices, servers, reading.host.memory_available_bytes)

    def _residues(self, names: tuple[str, ...]) -> dict[str, int]:
        """What each keeps of a GPU while it sleeps: measured, else estimated. Blocking."""
        found = {}
        for name in names:
            planned = self.planned.get(name)
            overhead = planned.decision.need.overhead_bytes if planned and planned.decision.need else 0
            subject = planned.subject if planned else None
            found[name] = self._history.residue_bytes(subject, overhead) if subject else estimated_residue(overhead)
        return found

    def _up_server(
        self,
        target: str,
        status: ServerStatus,
        known: Mapping[str, int] | None,
        board: Board,
        residue_bytes: int,
    ) -> UpServer:
        name, planned = status.name, self.planned.get(status.name)
        held = _supposed(status, planned, residue_bytes) if known is None else known
        will_hold: Mapping[str, int] = {}
        if status.state is ServerState.STARTING and planned is not None:
            will_hold = planned.decision.will_hold
        elif status.state is ServerState.ASLEEP:
            will_hold = (planned.held_awake if planned else {}) or (planned.decision.will_hold if planned else {})
        last_used = board.uses.last_used(name) or status.ready_at or 0.0
        if name == self._first_to_go(target):  # counts as the one that was not used for longest
            last_used = 0.0
        sleeps = status.sleep is not None and status.sleep.frees_memory and status.state is ServerState.READY
        return UpServer(
            name,
            status.state,
            held=held,
            will_hold=will_hold,
            residue={key: min(size, residue_bytes) for key, size in held.items()},
            last_used=last_used,
            in_use=board.is_wanted(name),
            is_waking=board.is_waking(name),
            is_falling_asleep=board.is_moving(name) and not board.is_waking(name),
            may_be_freed=name != self._spared.get(target),
            sleep_levels=SLEEP_LEVELS if sleeps else (),
            # What its first sleep has pinned stays with it: a later one needs no more.
            host_bytes=0 if status.sleep is not None and status.sleep.first_sleep_s is not None else None,
        )


def _more_about(refusal: InsufficientMemory, reading: Reading, spec: ModelSpec) -> InsufficientMemory:
    """The same with the names of those who hold the memory, and what in the model's own file may be changed."""
    device = next((each for each in reading.devices if each.index == refusal.facts.get("device")), None)
    who = holders(device, reading) if device is not None else ()
    held = (Phrase("refused_held", {"holders": who}),) if who else ()
    lower = (Phrase("do_lower_share"),) if "gpu-memory-utilization" in spec.options else ()
    message = said(*phrases_of(refusal.message), *held)
    next_step = said(*lower, *phrases_of(refusal.next_step))
    return InsufficientMemory(message, next_step, **refusal.facts)


def _supposed(status: ServerStatus, planned: Planned | None, residue_bytes: int) -> Mapping[str, int]:
    """What a server holds where nobody shows it: what it was planned to hold, or to keep while it sleeps."""
    if planned is None or status.state not in (ServerState.READY, ServerState.ASLEEP):
        return {}
    awake = planned.held_awake or planned.decision.will_hold
    if status.state is ServerState.READY:
        return awake
    return {key: min(size, residue_bytes) for key, size in awake.items()}
