"""Sleep and wake by vLLM's routes: what is asked in which order, and that a bad wake is not believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fakes import StubServer
from processes import eventually
from stage import Stage

from server_manager.client import ClientSession
from server_manager.errors import ChatError, StartError
from server_manager.server_state import ServerState
from server_manager.settings import Settings

ASLEEP, READY = ServerState.ASLEEP, ServerState.READY


@pytest.fixture
async def stage(settings: Settings) -> AsyncIterator[Stage]:
    async with ClientSession() as session, StubServer() as http:
        stage = Stage(settings, session, http)
        http.health = 200
        yield stage
        await stage.server.stop(now=True)


async def test_level_1(stage: Stage) -> None:
    await stage.server.ensure_ready()
    await stage.server.sleep()
    view = stage.server.status.sleep
    assert view is not None
    assert (stage.server.status.state, view.level) == (ASLEEP, 1)
    assert view.sleep_s is not None
    await stage.server.ensure_ready()
    view = stage.server.status.sleep
    assert view is not None
    assert (stage.server.status.state, view.level) == (READY, 0)
    assert view.wake_s is not None
    assert stage.http.routes == ["/sleep?level=1", "/wake_up"]


async def test_level_2_reads_the_weights_again(stage: Stage) -> None:
    await stage.server.ensure_ready()
    await stage.server.sleep(2)
    await stage.server.wake()
    assert stage.server.status.state is READY
    assert stage.http.routes == [
        "/sleep?level=2",
        "/wake_up?tags=weights",
        "/collective_rpc",
        "/wake_up?tags=kv_cache",
        "/reset_prefix_cache",
    ]


@pytest.mark.parametrize("fault", ["error", "half", "garbage"])
async def test_a_bad_wake_is_not_believed_and_the_server_starts_cold(stage: Stage, fault: str) -> None:
    await stage.server.ensure_ready()
    await stage.server.sleep()
    stage.http.wake = fault
    waiting = asyncio.create_task(stage.server.ensure_ready())
    await stage.launched(2)
    stage.http.wake, stage.http.sleep_level = "good", 0  # a new process
    await waiting
    assert stage.server.status.state is READY
    assert len(stage.launcher.handles) == 2


async def test_whoever_asked_for_the_wake_is_told(stage: Stage) -> None:
    await stage.server.ensure_ready()
    await stage.server.sleep()
    stage.http.wake = "error"
    with pytest.raises(ChatError, match="out of memory"):
        await stage.server.wake()
    await stage.launched(2)


async def test_model_that_completes_no_text_is_woken_without_that_proof(stage: Stage) -> None:
    stage.http.completes = 404
    await stage.server.ensure_ready()
    await stage.server.sleep()
    await stage.server.wake()
    assert stage.server.status.state is READY


async def test_first_sleep_comes_before_it_is_ready(stage: Stage) -> None:
    stage.first_sleep = True
    await stage.server.ensure_ready()
    view = stage.server.status.sleep
    assert view is not None
    assert view.first_sleep_s is not None
    assert view.level == 0
    assert stage.http.routes == ["/sleep?level=1", "/wake_up"]


async def test_first_sleep_that_goes_wrong_fails_the_start(stage: Stage) -> None:
    stage.first_sleep = True
    stage.http.wake = "garbage"
    with pytest.raises(StartError, match="talks nonsense") as refused:
        await stage.server.ensure_ready()
    assert "DECK_SWITCHABLE=no in m.env" in refused.value.next_step


async def test_stop_in_the_first_sleep(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.first_sleep = True
    hold = asyncio.Event()

    async def held(*args: object, **kwargs: object) -> None:
        await hold.wait()

    monkeypatch.setattr("server_manager.sleep_routes.sleep", held)
    stage.server.start()
    await eventually(lambda: stage.server.status.phase == "first_sleep", "the first sleep")
    await stage.server.stop()
    assert stage.server.status.state is ServerState.STOPPED


async def next_app(stage: Stage) -> Stage:
    """Another app over the same server, which has been adopted by its record on the disk."""
    (record,) = stage.store.load_all()
    other = Stage(stage.settings, stage.session, stage.http, launcher=stage.launcher)
    assert await other.server.adopt(record, "vllm serve m")
    return other


@pytest.mark.parametrize("level", [1, 2])
async def test_adopted_server_that_sleeps_is_known_to(stage: Stage, level: int) -> None:
    await stage.server.ensure_ready()
    await stage.server.sleep(level)
    await stage.server.leave()
    other = await next_app(stage)
    await other.reach(ASLEEP)
    view = other.server.status.sleep
    assert view is not None
    assert view.level == level
    await other.server.ensure_ready()
    assert other.server.status.state is READY
    await other.server.stop(now=True)


async def test_server_that_is_adopted_while_it_falls_asleep_is_known_to_sleep(stage: Stage) -> None:
    """Its metrics tell of a sleep once it is over: a server taken for one that is awake would swallow chats."""
    await stage.server.ensure_ready()
    stage.http.may_move.clear()
    falling_asleep = stage.background(stage.server.sleep())
    await eventually(lambda: "/sleep?level=1" in stage.http.routes, "the request to sleep")
    await stage.server.leave()
    other = await next_app(stage)
    await eventually(lambda: other.http.questions_of_sleep > 0, "the question whether it sleeps")
    assert other.server.status.state is ServerState.STARTING
    stage.http.may_move.set()
    await other.reach(ASLEEP)
    await falling_asleep
    await other.server.ensure_ready()
    assert stage.http.routes == ["/sleep?level=1", "/wake_up"]
    await other.server.stop(now=True)


async def test_sleep_of_unknown_depth_is_taken_for_the_deeper_one(stage: Stage) -> None:
    stage.http.tells_level = False
    await stage.server.ensure_ready()
    await stage.server.sleep(2)
    await stage.server.leave()
    other = await next_app(stage)
    await other.reach(ASLEEP)
    await other.server.ensure_ready()
    assert "/collective_rpc" in stage.http.routes, "the weights are read again"
    assert len(stage.launcher.handles) == 2, "adopted and woken, not started again"
    await other.server.stop(now=True)


async def test_adopted_server_that_does_not_wake_well_is_not_believed_either(stage: Stage) -> None:
    """What it said before it slept was learnt by the app before."""
    await stage.server.ensure_ready()
    await stage.server.sleep()
    await stage.server.leave()
    other = await next_app(stage)
    await other.reach(ASLEEP)
    stage.http.wake = "garbage"
    with pytest.raises(ChatError, match="talks nonsense"):
        await other.server.wake()
    await other.launched(3)
    await other.server.stop(now=True)
