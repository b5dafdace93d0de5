"""Lets requests through to servers that are awake, and changes which ones are: the stations of a switch.

A request *uses* a server from its first byte to its last. A server that is down starts, one that sleeps is woken; both
first take a *turn*, in which room is made by the memory planner's decision: others are put to sleep or stopped, those
in use once their answers are over. As long as somebody makes room by putting a server away, new requests for that
server wait and get the next turn, and all who wait for a server are let through together when it is up. So two users
who ask for two models that do not fit together take turns, by batches, and neither starves.

A change is a transaction: where the new server does not come up, those that were put away for it are brought back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from server_manager.background import Background
from server_manager.client import ServerClient
from server_manager.errors import InsufficientMemory, ServerManagerError
from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.release import Sleep, Stop, WaitFor, WaitReason
from server_manager.memory_plan.words import said
from server_manager.phrases import Phrase, phrases_of
from server_manager.server_state import ServerExit, ServerState, ServerStatus, Waiting
from server_manager.switching.turns import Turn, Turns
from server_manager.switching.uses import Uses

log = logging.getLogger(__name__)

STILL_SECONDS = 3.0
"""When no more memory has come free for so long, none is going to."""
_MOVED_BYTES = 16 * 2**20
_LOOK_SECONDS = 0.25
"""Between two looks while nothing tells us of a change: other people's processes come and go, memory drains."""


class Switched(Protocol):
    """A server as this module needs it."""

    name: str

    @property
    def status(self) -> ServerStatus: ...
    async def ensure_ready(self) -> ServerClient: ...
    async def until_started(self) -> bool: ...
    async def sleep(self, level: int = 1) -> None: ...
    async def wake(self) -> None: ...
    async def stop(self, *, now: bool = False) -> ServerExit | None: ...
    def show_waiting(self, waiting: Waiting | None) -> None: ...
    def cut_streams(self) -> None: ...
    def start_cold(self, why: str) -> None: ...


class Watch(Protocol):
    """Who is told what has become of a change."""

    def before_sleep(self, name: str) -> None: ...
    async def after_start(self, name: str) -> None: ...
    async def after_sleep(self, name: str) -> None: ...
    async def after_wake(self, name: str, level: int) -> None: ...
    async def after_stop(self, name: str, end: ServerExit) -> None: ...


Decide = Callable[[bool], Awaitable[Decision | InsufficientMemory]]
"""Looks at everything and decides (``memory_plan``): as it is now or, where the argument is false, as it was within the
last second: enough to say what has to be done first."""


@dataclass(slots=True)
class _Change:
    """One server that is to come up, and what was done for it."""

    name: str
    put_away: list[str] = field(default_factory=list)
    """Servers that were ready."""
    claims: ExitStack = field(default_factory=ExitStack)
    claimed_since: dict[str, float] = field(default_factory=dict)


class _Refusals:
    """A driver takes back what dead processes held bit by bit: as long as more comes free, a refusal is not final."""

    def __init__(self) -> None:
        self._most_free = -1
        self._moved_at = time.monotonic()

    def is_final(self, refusal: InsufficientMemory) -> bool:
        """Whether nothing has come free for some seconds."""
        free = refusal.facts.get("free_bytes")
        if isinstance(free, int) and free > self._most_free + _MOVED_BYTES:
            self._most_free, self._moved_at = free, time.monotonic()
        return time.monotonic() - self._moved_at > STILL_SECONDS


class Switchboard:
    """One for all servers. Methods belong to the event loop."""

    def __init__(self, server: Callable[[str], Switched], watch: Watch, patience: float) -> None:
        """``patience``: seconds that answers may go on when their server has to make room."""
        self._server = server
        self._watch = watch
        self._patience = patience
        self._changed = asyncio.Event()
        self.uses = Uses(self._tell)
        self._turns = Turns(self._tell)
        self._wakes: dict[str, asyncio.Task[None]] = {}
        self._moving: set[str] = set()
        self._made_room_at: dict[str, float] = {}
        self._background = Background(_tell_failure)

    async def close(self) -> None:
        """Ends what goes on in the background; nothing more is brought back from now on."""
        wakes = tuple(self._wakes.values())
        for wake in wakes:
            wake.cancel()
        if tasks := (*self._background.close(), *wakes):
            await asyncio.wait(tasks)

    # Requests

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Switched]:
        """The server, ready, and left alone until the block is left. Raises what ``ensure_ready`` raises."""
        server = self._server(name)
        with self.uses.wish(name) as use:
            while not use.granted:
                if self.uses.claimed_by(name):
                    await self._next_change()
                    continue
                await server.ensure_ready()
                if not use.granted and server.status.state is ServerState.READY and not self.uses.claimed_by(name):
                    self.uses.grant(name, use)
            yield server

    def is_moving(self, name: str) -> bool:
        """Whether it is falling asleep or waking just now."""
        return name in self._moving

    def made_room(self, name: str, since: float) -> bool:
        """Whether it is down because it had to make room, not before that moment (Unix time in seconds)."""
        status, at = self._server(name).status, self._made_room_at.get(name, 0.0)
        return status.state in (ServerState.ASLEEP, ServerState.STOPPED) and at >= max(since, status.since)

    def is_waking(self, name: str) -> bool:
        """Whether it is waking just now."""
        return name in self._moving and name in self._wakes

    def is_in_line(self, name: str) -> bool:
        """Whether room is still to be made for it."""
        return self._turns.has(name)

    def is_wanted(self, name: str) -> bool:
        """Whether somebody uses it, or waits for it and is not let through only because it makes room."""
        return bool(self.uses.count(name) or (self.uses.waiting(name) and not self.uses.claimed_by(name)))

    # Changes

    async def room_for_start(self, name: str, decide: Decide, progress: Callable[[str], None]) -> Decision:
        """For the plan of a start: waits for its turn and makes room. Raises ``InsufficientMemory``.

        From here on the start is followed: when it is over, those who wait are let through, or what was put away for
        it is brought back.
        """
        change = _Change(name)
        try:
            with self._turns.join(name) as turn:
                decision = await self._make_room(turn, change, decide, progress)
        except BaseException:  # also when the start is stopped while it waits
            self._server(name).show_waiting(None)
            self._undo(change)
            raise
        finally:
            change.claims.close()
        self._server(name).show_waiting(None)
        self._background.begin(self._follow_start(change))
        return decision

    async def wake(self, name: str, decide: Decide) -> None:
        """Wakes a sleeping server in its turn; joins a wake that is on.

        Raises ``InsufficientMemory``, or ``ChatError`` where it did not wake well (it is being started cold then).
        """
        if name not in self._wakes:
            task = self._wakes[name] = asyncio.create_task(self._wake(name, decide), name=f"wake of {name}")
            task.add_done_callback(lambda _: self._wakes.pop(name, None))
            task.add_done_callback(_look_at)
        await asyncio.shield(self._wakes[name])

    async def put_to_sleep(self, name: str, level: int = 1) -> None:
        """As soon as nobody uses it, answers that take longer than ``patience`` being cut. Raises as ``sleep`` does."""
        change = _Change(name)
        with change.claims:
            self._claim(change, name)
            await self._drain(change, name)
            await self._sleep(name, level)

    async def stop_unused(self, name: str) -> None:
        """Stops a server that nobody uses; one that somebody has begun to use meanwhile is left alone.

        Raises what ``stop`` raises.
        """
        with self.uses.claim(name, ""):
            if not self.uses.count(name):
                await self._server(name).stop()

    # Parts

    async def _wake(self, name: str, decide: Decide) -> None:
        server, change = self._server(name), _Change(name)
        try:
            with self._turns.join(name) as turn:
                try:
                    await self._make_room(turn, change, decide, lambda text: None)
                except InsufficientMemory as error:
                    server.start_cold(str(error))  # with as much as there is
                    raise
                self._moving.add(name)
                server.show_waiting(None)
                level = server.status.sleep.level if server.status.sleep else 1
                try:
                    await server.wake()
                finally:
                    self._moving.discard(name)
            if server.status.state is ServerState.READY:
                self.uses.grant_all(name)
                self._background.begin(self._watch.after_wake(name, level))
        except BaseException as error:
            server.show_waiting(None)
            # Where it did not wake well it starts cold, and needs the room all the same.
            if server.status.state in (ServerState.STARTING, ServerState.STOPPING):
                self._background.begin(self._follow_start(change))
            else:
                self._undo(change)
                if isinstance(error, ServerManagerError):
                    log.warning("%s stays asleep: %s", name, error)
            raise
        finally:
            change.claims.close()
            self._tell()

    async def _follow_start(self, change: _Change) -> None:
        """Until the start is over: then those who wait are let through, or the change is undone."""
        if await self._server(change.name).until_started():
            self.uses.grant_all(change.name)
            self._background.begin(self._watch.after_start(change.name))
        else:
            self._undo(change)
        self._tell()

    async def _make_room(
        self, turn: Turn, change: _Change, decide: Decide, progress: Callable[[str], None]
    ) -> Decision:
        """Decides, does it, and decides anew, until nothing is left to be done."""
        refused, fresh = _Refusals(), False
        while True:
            seen = self._changed  # before the look, so that nothing that happens after it is missed
            was_behind = self._turns.before(turn)
            decision = await decide(fresh)
            keys = frozenset(decision.device_keys) if isinstance(decision, Decision) else turn.wants or frozenset()
            self._turns.plan(turn, keys)
            if before := self._turns.before(turn):
                self._show(turn, Waiting(len(before), before), progress)
                await self._next_change(seen)
            elif was_behind:
                pass  # what was looked at may be from before the change of the one that has just gone on
            elif not fresh and not (isinstance(decision, Decision) and decision.actions):
                pass  # only the present counts for going ahead, or for giving up
            elif isinstance(decision, InsufficientMemory):
                progress(said(Phrase("plan_waits_for_memory"), *phrases_of(decision.message)))
                if refused.is_final(decision):
                    raise decision
                await self._next_change(seen)
            elif not decision.actions:
                return decision
            elif decision.waits:
                waits = [action for action in decision.actions if isinstance(action, WaitFor)]
                behind, reasons = (action.name for action in waits), (action.reason.value for action in waits)
                self._show(turn, Waiting(0, tuple(behind), tuple(reasons)), progress)
                for action in waits:
                    if action.reason is WaitReason.IN_USE:
                        self._claim(change, action.name)
                        self._cut_if_late(change, action.name)
                await self._next_change(seen)
            else:
                log.info("%s", decision.words)
                progress(decision.words)
                steps: tuple[Sleep | Stop, ...] = (*decision.sleeps, *decision.stops)
                await asyncio.gather(*(self._put_away(change, step) for step in steps))
            fresh = True

    def _show(self, turn: Turn, waiting: Waiting, progress: Callable[[str], None]) -> None:
        self._server(turn.name).show_waiting(waiting)
        progress(waiting.words)

    def _claim(self, change: _Change, name: str) -> None:
        if name not in change.claimed_since:
            change.claims.enter_context(self.uses.claim(name, change.name))
            change.claimed_since[name] = time.monotonic()

    def _cut_if_late(self, change: _Change, name: str) -> None:
        if time.monotonic() - change.claimed_since[name] > self._patience:
            self._server(name).cut_streams()

    async def _drain(self, change: _Change, name: str) -> None:
        while self.uses.count(name):
            self._cut_if_late(change, name)
            await self._next_change()

    async def _put_away(self, change: _Change, action: Sleep | Stop) -> None:
        server = self._server(action.name)
        was_ready = server.status.state is ServerState.READY
        self._claim(change, action.name)
        await self._drain(change, action.name)  # somebody may have come since the decision
        if was_ready:
            change.put_away.append(action.name)
        if isinstance(action, Sleep):
            try:
                await self._sleep(action.name, action.level)
            except ServerManagerError as error:
                log.warning("%s cannot be put to sleep (%s): it is stopped.", action.name, error)
            else:
                self._made_room_at[action.name] = time.time()
                return
        end = await server.stop()
        self._made_room_at[action.name] = time.time()
        if end:
            self._background.begin(self._watch.after_stop(action.name, end))

    async def _sleep(self, name: str, level: int) -> None:
        self._moving.add(name)
        self._watch.before_sleep(name)
        try:
            await self._server(name).sleep(level)
            self._background.begin(self._watch.after_sleep(name))
        finally:
            self._moving.discard(name)
            self._tell()

    def _undo(self, change: _Change) -> None:
        """Brings back those that were put away, in turns of their own."""
        for name in change.put_away:
            if self._server(name).status.state in (ServerState.ASLEEP, ServerState.STOPPED):
                log.info("%s did not come up: %s is brought back.", change.name, name)
                self._background.begin(self.bring_up(name))
        change.put_away.clear()

    async def bring_up(self, name: str) -> None:
        """Starts or wakes it, if need be. Raises what ``use`` raises."""
        async with self.use(name):
            pass

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _next_change(self, seen: asyncio.Event | None = None) -> None:
        try:
            # Not `wait_for`: until Python 3.12 it swallows a cancelling in the moment of the change.
            async with asyncio.timeout(_LOOK_SECONDS):
                await (seen or self._changed).wait()
        except TimeoutError:
            return


def _look_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _tell_failure(error)


def _tell_failure(error: BaseException) -> None:
    if not isinstance(error, ServerManagerError):
        log.error("a change of servers failed", exc_info=error)
