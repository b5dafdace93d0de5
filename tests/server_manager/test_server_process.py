"""What those are told who want a server started, stopped or left, with a launcher that does what the test says."""

from __future__ import annotations

import asyncio

import pytest
from fakes import statuses
from processes import eventually
from stage import Stage

from server_manager.errors import ManagerClosed, NotAllowed, SpecError, StartAborted, StartError, StopError
from server_manager.server_state import ExitCause, ServerState

STOPPED, STARTING, READY, ASLEEP, STOPPING, FAILED = ServerState


async def test_two_who_want_it_start_one_process(stage: Stage) -> None:
    stage.http.health = 200
    clients = await asyncio.gather(*(stage.server.ensure_ready() for _ in range(5)))
    assert len(stage.launcher.handles) == stage.plans == 1
    assert {client.base_url for client in clients} == {stage.http.url}


async def test_server_that_stops_listening_and_hangs_is_ended(stage: Stage) -> None:
    """As vLLM does where somebody else sends it SIGTERM while a request is open: it was shown as ready for ever."""
    stage.http.health = 200
    await stage.server.ensure_ready()
    await stage.http.__aexit__()
    await stage.reach(FAILED)
    assert stage.server.status.exit is not None
    assert stage.server.status.exit.cause is ExitCause.CRASHED


async def test_a_cancelled_waiter_does_not_end_the_start(stage: Stage) -> None:
    waiter = asyncio.create_task(stage.server.ensure_ready())
    await stage.launched()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    stage.http.health = 200
    await stage.reach(READY)
    assert stage.launcher.handle.signals == []


@pytest.mark.parametrize("moment", ["hold plan", "hold launch", "nothing held"])
async def test_waiters_are_told_that_the_start_was_stopped(stage: Stage, moment: str) -> None:
    if moment != "nothing held":
        await stage.event(moment)
    waiters = [asyncio.create_task(stage.server.ensure_ready()) for _ in range(2)]
    await eventually(lambda: stage.plans == 1, "planning")
    if moment == "nothing held":
        await stage.launched()
    stop = asyncio.create_task(stage.server.stop())
    await asyncio.sleep(0.05)
    await stage.event("let launch")
    for waiter in waiters:
        with pytest.raises(StartAborted, match="cancelled"):
            await waiter
    end = await stop
    assert end is not None
    assert end.cause is ExitCause.STOPPED
    assert stage.server.status.state is STOPPED
    assert all("TERM" not in handle.signals for handle in stage.launcher.handles), "vLLM swallows it while it loads"


async def test_ready_wanted_while_it_stops_waits_and_starts_anew(stage: Stage) -> None:
    stage.http.health = 200
    await stage.server.ensure_ready()
    stage.launcher.handle.obeys_sigterm = False
    stop = asyncio.create_task(stage.server.stop())
    await stage.reach(STOPPING)
    again = asyncio.create_task(stage.server.ensure_ready())
    end = await stop
    await again
    assert end is not None
    assert end.cause is ExitCause.STOPPED
    assert stage.server.status.state is READY
    assert [handle.signals for handle in stage.launcher.handles] == [["TERM", "KILL"], []]


async def test_ready_wanted_in_the_moment_of_the_stop_starts_anew(stage: Stage) -> None:
    stage.http.health = 200
    await stage.server.ensure_ready()
    stop = asyncio.create_task(stage.server.stop())
    again = asyncio.create_task(stage.server.ensure_ready())
    await stop
    await again
    assert stage.server.status.state is READY
    assert len(stage.launcher.handles) == 2


async def test_a_start_that_is_stopped_as_it_becomes_ready_is_not_begun_anew(stage: Stage) -> None:
    async def stop_at_once() -> None:
        async for status in statuses(stage.server):
            if status.state is READY:
                await stage.server.stop()
                return

    stage.http.health = 200
    stopping = asyncio.create_task(stop_at_once())
    with pytest.raises(StartAborted):
        await stage.server.ensure_ready()
    await stopping
    assert stage.server.status.state is STOPPED
    assert len(stage.launcher.handles) == 1


async def test_each_waiter_learns_of_the_start_that_it_waited_for(stage: Stage) -> None:
    first, second = (asyncio.create_task(stage.server.ensure_ready()) for _ in range(2))
    await stage.launched()
    (stage.settings.logs_dir / "x.log").write_text("ValueError: too big\n")

    async def start_again() -> None:
        async for status in statuses(stage.server):
            if status.state is FAILED:
                stage.server.start()
                return

    again = asyncio.create_task(start_again())
    stage.launcher.handle.end(1)
    for waiter in (first, second):
        with pytest.raises(StartError, match="too big"):
            await waiter
    await again
    await stage.launched(2)


async def test_a_refused_plan_says_why(stage: Stage) -> None:
    stage.plan_error = SpecError("There is no folder.", "Make it.")
    with pytest.raises(StartError, match=r"There is no folder\. Make it\."):
        await stage.server.ensure_ready()
    end = stage.server.status.exit
    assert end is not None
    assert (end.cause, end.code, end.returncode) == (ExitCause.NOT_LAUNCHED, "invalid_model", None)
    assert stage.launcher.handles == []


async def test_progress_of_the_plan_is_shown(stage: Stage) -> None:
    stage.plan_gate.clear()
    stage.server.start()
    await eventually(lambda: stage.server.status.detail == "looking for a port", "the plan's progress")
    assert stage.server.status.phase == "prepare"


async def test_what_outlives_sigkill_is_named(stage: Stage) -> None:
    stage.http.health = 200
    await stage.server.ensure_ready()
    stage.launcher.handle.obeys_sigterm = False
    stage.launcher.handle.unkillable = (4711, 4712)
    with pytest.raises(StopError, match="4711, 4712"):
        await stage.server.stop()
    assert stage.server.status.state is FAILED


async def test_what_outlives_sigkill_is_left_to_the_next_app(stage: Stage) -> None:
    stage.http.health = 200
    await stage.server.ensure_ready()
    stage.launcher.handle.unkillable = (4711,)
    with pytest.raises(StopError):
        await stage.server.stop()
    assert [record.pid for record in stage.store.load_all()] == [stage.launcher.handle.pid]
    await stage.server.ensure_ready()
    await stage.server.stop()
    assert stage.store.load_all() == ()


async def test_an_idle_server_that_is_stopped_gets_sigterm_before_sigkill(stage: Stage) -> None:
    stage.http.health = 200
    await stage.server.ensure_ready()
    end = await stage.server.stop()
    assert stage.launcher.handle.signals == ["TERM", "KILL"], "SIGKILL last: it clears what is left"
    assert end is not None
    assert end.returncode == 0
    assert stage.store.load_all() == ()


async def test_cancelling_a_stop_ends_only_the_waiting(stage: Stage) -> None:
    stage.http.health = 200
    await stage.server.ensure_ready()
    stage.launcher.handle.obeys_sigterm = False
    stop = asyncio.create_task(stage.server.stop())
    await stage.reach(STOPPING)
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    await stage.reach(STOPPED)


async def test_a_stop_while_a_request_to_health_hangs_is_not_delayed(stage: Stage) -> None:
    stage.http.health = 200
    await stage.server.ensure_ready()
    hang = asyncio.Event()

    async def never(self: object) -> int:
        hang.set()
        await asyncio.sleep(3600)
        return 200

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server_manager.client.ServerClient.health", never)
        await asyncio.wait_for(hang.wait(), 10)
        await asyncio.wait_for(stage.server.stop(), 20)


async def test_sleep_needs_the_flag(stage: Stage) -> None:
    stage.http.health = 200
    stage.routes = False
    await stage.server.ensure_ready()
    with pytest.raises(NotAllowed, match="enable-sleep-mode: true"):
        await stage.server.sleep()
    assert stage.server.status.state is READY
    assert stage.server.status.sleep is None


async def test_ready_wanted_wakes_it(stage: Stage) -> None:
    stage.http.health = 200
    await stage.server.ensure_ready()
    await stage.server.sleep()
    await stage.server.ensure_ready()
    assert stage.server.status.state is READY
    assert len(stage.launcher.handles) == 1


async def test_no_client_of_a_server_that_is_down(stage: Stage) -> None:
    with pytest.raises(NotAllowed, match="not ready"):
        stage.server.client()


async def test_left_server_is_not_touched_and_its_waiters_are_told(stage: Stage) -> None:
    waiter = asyncio.create_task(stage.server.ensure_ready())
    await stage.launched()
    await stage.server.leave()
    with pytest.raises(ManagerClosed):
        await waiter
    assert stage.launcher.handle.signals == []
    assert [record.pid for record in stage.store.load_all()] == [stage.launcher.handle.pid]
    assert stage.server.start() is False
    assert await stage.server.stop() is None


async def test_leaving_ends_a_start_that_has_no_process_yet(stage: Stage) -> None:
    stage.plan_gate.clear()
    stage.server.start()
    await eventually(lambda: stage.plans == 1, "planning")
    await stage.server.leave()
    stage.plan_gate.set()
    await asyncio.sleep(0.05)
    assert stage.server.status.state is STOPPED
    assert stage.launcher.handles == []


async def test_leaving_waits_for_an_end_that_is_under_way(stage: Stage) -> None:
    stage.http.health = 200
    await stage.server.ensure_ready()
    stage.launcher.handle.obeys_sigterm = False
    stop = asyncio.create_task(stage.server.stop())
    await stage.reach(STOPPING)
    await stage.server.leave()
    assert stage.server.status.state is STOPPED
    await stop


async def test_streams_are_cut_only_when_patience_is_over(stage: Stage) -> None:
    stage.http.health = 200
    await stage.server.ensure_ready()
    handle = stage.launcher.handle
    handle.obeys_sigterm = False
    began = asyncio.Event()

    async def stream() -> None:
        with stage.server.stream_lease():
            began.set()
            try:
                await asyncio.sleep(3600)
            finally:
                handle.end(0)  # as vLLM does once nobody is connected

    streaming = asyncio.create_task(stream())
    await began.wait()
    end = await stage.server.stop()
    assert streaming.cancelled()
    assert end is not None
    assert end.returncode == 0
    assert end.seconds >= 0.2, "shutdown_timeout is for the open answers"


async def test_stop_now_cuts_streams_at_once(stage: Stage) -> None:
    stage.http.health = 200
    await stage.server.ensure_ready()
    began = asyncio.Event()

    async def stream() -> None:
        with stage.server.stream_lease():
            began.set()
            await asyncio.sleep(3600)

    streaming = asyncio.create_task(stream())
    await began.wait()
    stopping = asyncio.create_task(stage.server.stop(now=True))
    await asyncio.wait({streaming})
    assert stage.server.status.state is not STOPPED
    await stopping
