"""Who is let through and who waits for whom, with servers that the test plays: no processes, no memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from processes import eventually

from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.release import Action, Sleep, Stop, WaitFor, WaitReason
from server_manager.server_state import ExitCause, ServerExit, ServerState, ServerStatus, SleepView, Waiting
from server_manager.switching.switchboard import Switchboard

READY, ASLEEP, STOPPED, STARTING = (
    ServerState.READY, ServerState.ASLEEP, ServerState.STOPPED, ServerState.STARTING,
)  # fmt: skip


class PlayedServer:
    """Changes its state at once."""

    def __init__(self, name: str, board: Board, state: ServerState) -> None:
        self.name, self._board = name, board
        self.status = ServerStatus(name, state, sleep=SleepView(frees_memory=True))
        self.shown: list[Waiting | None] = []
        self.cuts = 0
        self.may_wake = asyncio.Event()
        self.may_wake.set()
        self.answers: set[asyncio.Task[None]] = set()

    def to(self, state: ServerState) -> None:
        self.status = replace(self.status, state=state)

    async def ensure_ready(self) -> None:
        if self.status.state is ASLEEP:
            await self._board.board.wake(self.name, self._board.decide_for(self.name))
        elif self.status.state is not READY:
            self.to(STARTING)
            await self._board.board.room_for_start(self.name, self._board.decide_for(self.name), lambda text: None)
            self.to(READY)

    async def until_started(self) -> bool:
        await eventually(lambda: self.status.state is not STARTING, "its start to be over")
        return self.status.state is READY

    async def sleep(self, level: int = 1) -> None:
        assert not self._board.board.uses.count(self.name), "somebody is still being answered"
        self.to(ASLEEP)

    async def wake(self) -> None:
        await self.may_wake.wait()
        self.to(READY)

    async def stop(self, *, now: bool = False) -> ServerExit:
        self.to(STOPPED)
        return ServerExit(ExitCause.STOPPED, "Stopped.", seconds=1.5)

    def show_waiting(self, waiting: Waiting | None) -> None:
        self.shown.append(waiting)

    def cut_streams(self) -> None:
        self.cuts += 1
        for answer in self.answers:
            answer.cancel()

    def start_cold(self, why: str) -> None:
        raise AssertionError(why)


class Board:
    """A switchboard; ``plan`` is what has to happen before a server may come up, as long as it is not so already."""

    def __init__(self, patience: float = 60.0, **states: ServerState) -> None:
        self.board = Switchboard(lambda name: self.servers[name], self, patience)  # type: ignore[arg-type, return-value]
        self.servers = {name: PlayedServer(name, self, state) for name, state in states.items()}
        self.room: dict[str, str] = {}
        """By server: the one that has to be away for it."""
        self.how: type[Sleep | Stop] = Sleep
        self.stopped: list[tuple[str, float]] = []
        self.looks: list[str] = []
        """Who has looked at the memory, also without having decided yet."""
        self.may_decide = asyncio.Event()
        self.may_decide.set()

    def decide_for(self, name: str):  # type: ignore[no-untyped-def]
        async def decide(fresh: bool) -> Decision:
            other = self.servers.get(self.room.get(name, ""))
            is_free = other is None or other.status.state is not READY
            self.looks.append(name)
            if name in self.room:
                await self.may_decide.wait()
            if is_free or other is None:
                return Decision(device_keys=("gpu",))
            action: Action = Sleep(other.name, 1, 1) if self.how is Sleep else Stop(other.name, 1)
            if self.board.is_wanted(other.name):
                action = WaitFor(other.name, WaitReason.IN_USE)
            return Decision(actions=(action,), device_keys=("gpu",))

        return decide

    @asynccontextmanager
    async def answering(self, name: str) -> AsyncIterator[asyncio.Task[None]]:
        """An answer that goes on until it is cancelled."""
        begun = asyncio.Event()

        async def answer() -> None:
            async with self.board.use(name):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(answer())
        self.servers[name].answers.add(task)
        await begun.wait()
        yield task
        task.cancel()
        await asyncio.wait({task})

    def before_sleep(self, name: str) -> None: ...
    async def after_start(self, name: str) -> None: ...
    async def after_sleep(self, name: str) -> None: ...
    async def after_wake(self, name: str, level: int) -> None: ...
    async def after_stop(self, name: str, end: ServerExit) -> None:
        self.stopped.append((name, end.seconds))


async def until_shown(server: PlayedServer, waiting: Waiting) -> None:
    await eventually(lambda: waiting in server.shown, f"{server.name} to wait as {waiting}")


@pytest.mark.parametrize("way", ["for another", "by hand"])
async def test_answer_that_takes_longer_than_the_patience_is_cut(way: str) -> None:
    deck = Board(patience=0.0, alpha=READY, beta=ASLEEP)
    deck.room["beta"] = "alpha"
    async with deck.answering("alpha") as answer:
        await (deck.board.bring_up("beta") if way == "for another" else deck.board.put_to_sleep("alpha"))
        assert answer.cancelled()
    assert deck.servers["alpha"].status.state is ASLEEP
    await deck.board.close()


async def test_answer_is_finished_before_its_server_makes_room() -> None:
    deck = Board(alpha=READY, beta=ASLEEP)
    deck.room["beta"] = "alpha"
    async with deck.answering("alpha"):
        waking = asyncio.create_task(deck.board.bring_up("beta"))
        await until_shown(deck.servers["beta"], Waiting(0, ("alpha",), ("in_use",)))
        assert deck.servers["alpha"].status.state is READY
    await waking
    assert (deck.servers["alpha"].cuts, deck.servers["alpha"].status.state) == (0, ASLEEP)
    await deck.board.close()


async def test_places_in_the_queue_are_shown_and_kept() -> None:
    deck = Board(alpha=READY, beta=STOPPED, gamma=STOPPED)
    deck.room |= {"beta": "alpha", "gamma": "beta"}
    came: list[str] = []

    async def ask(name: str) -> None:
        async with deck.board.use(name):
            came.append(name)

    async with deck.answering("alpha"):
        beta = asyncio.create_task(ask("beta"))
        await until_shown(deck.servers["beta"], Waiting(0, ("alpha",), ("in_use",)))
        gamma = asyncio.create_task(ask("gamma"))
        await until_shown(deck.servers["gamma"], Waiting(1, ("beta",)))
    await asyncio.gather(beta, gamma)
    assert came == ["beta", "gamma"]
    await deck.board.close()


async def test_how_long_a_stop_for_another_took_is_told() -> None:
    deck = Board(alpha=READY, beta=STOPPED)
    deck.room["beta"], deck.how = "alpha", Stop
    await deck.board.bring_up("beta")
    await eventually(lambda: deck.stopped == [("alpha", 1.5)], "the stop to be told")
    assert deck.servers["alpha"].status.state is STOPPED
    await deck.board.close()


async def test_look_from_before_the_end_of_anothers_turn_does_not_count() -> None:
    """The memory was free when gamma looked, and has been taken by alpha until gamma has decided."""
    deck = Board(alpha=ASLEEP, gamma=STOPPED)
    deck.room["gamma"] = "alpha"
    alpha, gamma = deck.servers["alpha"], deck.servers["gamma"]
    alpha.may_wake.clear()
    waking = asyncio.create_task(deck.board.bring_up("alpha"))
    await eventually(lambda: deck.board.is_waking("alpha"), "alpha to wake")
    starting = asyncio.create_task(gamma.ensure_ready())
    await eventually(lambda: "gamma" in deck.looks, "gamma to be in line")
    deck.may_decide.clear()
    before = deck.looks.count("gamma")
    await eventually(lambda: deck.looks.count("gamma") > before, "gamma to look again")
    alpha.may_wake.set()
    await waking
    deck.may_decide.set()
    await starting
    assert (alpha.status.state, gamma.status.state) == (ASLEEP, READY)
    await deck.board.close()
