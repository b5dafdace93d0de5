"""Several models, one after the other: put away after their turn, and going on after the end of the app."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import AddModel
from processes import eventually
from shooting_range import Range

from server_manager.load_test.ladder import bring_back, goes_on, resumed
from server_manager.load_test.live_run import LiveRun
from server_manager.load_test.plan import planned_rows
from server_manager.load_test.run import LoadRun, LoadState, Metrics, RunKind
from server_manager.load_test.runner import LoadTests
from server_manager.load_test.settings import settings_from
from server_manager.server_state import ServerState
from server_manager.telemetry.base import DeviceSnapshot

GIB = 2**30
FIGURES = Metrics(4, 0, 1.0, 4.0, 16.0, 48.0, 32, 16)


def state_of(shooting: Range, name: str) -> ServerState:
    return shooting.deck.manager.server(name).status.state


def cut_short(state: LoadState) -> LoadRun:
    """A ladder whose second of three models was being measured at its second level."""
    settings = settings_from({"concurrency": [1, 2]})
    run = LoadRun("20260101-000000-000000", "x", RunKind.LADDER, 1.0, settings, state=state, ended_at=3.0)
    first, second, third = planned_rows(("one", "two", "three"), settings, seed=5)
    done = [replace(level, state=LoadState.DONE, metrics=FIGURES) for level in first.levels]
    half = (done[0], replace(second.levels[1], state=state, command="vllm bench serve"))
    return replace(
        run,
        rows=(
            replace(first, state=LoadState.DONE, load_s=2.0, levels=tuple(done)),
            replace(second, state=state, load_s=3.0, levels=half),
            third,
        ),
    )


@pytest.mark.parametrize("state", [LoadState.RUNNING, LoadState.INTERRUPTED])
def test_after_the_end_of_the_app_what_is_done_stays_and_the_rest_begins_anew(state: LoadState) -> None:
    before = cut_short(state)
    assert goes_on(before)
    after = resumed(before)
    assert (after.state, after.ended_at) == (LoadState.QUEUED, None)
    assert after.rows[0] == before.rows[0]
    assert after.rows[2] == before.rows[2]
    again = after.rows[1]
    assert (again.state, again.load_s) == (LoadState.QUEUED, None)
    assert again.levels[0].metrics == FIGURES
    assert (again.levels[1].state, again.levels[1].command) == (LoadState.QUEUED, "")
    assert again.levels[1].seed == before.rows[1].levels[1].seed
    assert after.revision > before.revision, "who polls must see it"


def test_one_that_a_person_has_stopped_does_not_go_on() -> None:
    assert not goes_on(replace(cut_short(LoadState.RUNNING), stop_asked=True))
    assert not goes_on(cut_short(LoadState.STOPPED))
    assert not goes_on(cut_short(LoadState.DONE))


@pytest.mark.slow
async def test_a_ladder_goes_over_a_model_that_fails_and_leaves_the_servers_as_they_were(
    shooting: Range, add_model: AddModel
) -> None:
    add_model("broken", exit_code=1)
    await shooting.deck.ready("quick")
    run = await shooting.reach((await shooting.begin("quick", "broken", "second", concurrency=[1, 2])).id)
    assert (run.kind, run.state) == (RunKind.LADDER, LoadState.DONE)
    quick, broken, second = run.rows
    assert (quick.state, broken.state, second.state) == (LoadState.DONE, LoadState.FAILED, LoadState.DONE)
    assert (quick.was, second.was) == ("ready", "started")
    assert broken.diagnosis is not None
    assert {level.state for level in broken.levels} == {LoadState.FAILED}
    for row in (quick, second):
        assert [level.metrics and level.metrics.completed for level in row.levels] == [4, 4]
        assert row.kv_cache_tokens == 46_592
    assert second.load_s is not None
    assert state_of(shooting, "quick") is ServerState.READY
    assert state_of(shooting, "second") is ServerState.STOPPED


@pytest.mark.slow
async def test_what_can_sleep_sleeps_and_what_is_not_to_sleep_is_stopped(shooting: Range, add_model: AddModel) -> None:
    shooting.deck.readings.devices = [
        DeviceSnapshot(0, None, "H100", memory_total_bytes=80 * GIB, memory_free_bytes=79 * GIB)
    ]
    add_model("cold", {"enable-sleep-mode": False})
    run = await shooting.reach((await shooting.begin("quick", "cold")).id)
    assert run.state is LoadState.DONE, run
    assert (state_of(shooting, "quick"), state_of(shooting, "cold")) == (ServerState.ASLEEP, ServerState.STOPPED)

    again = await shooting.reach((await shooting.tests.repeat(run.id)).id)
    assert [row.was for row in again.rows] == ["woken", "started"]
    assert state_of(shooting, "quick") is ServerState.ASLEEP


@pytest.mark.slow
async def test_a_ladder_that_is_stopped_puts_its_model_away_and_stays_stopped(shooting: Range) -> None:
    run = await shooting.begin("slow", "second", output_len=500, num_warmups=0)
    running = await shooting.measuring(run.id)
    stopped = await shooting.tests.stop(run.id)
    assert [row.state for row in stopped.rows] == [LoadState.STOPPED, LoadState.STOPPED]
    await eventually(lambda: state_of(shooting, "slow") is ServerState.STOPPED, "it is put away")
    assert state_of(shooting, "second") is ServerState.STOPPED

    await shooting.tests.close()
    shooting.store.save(replace(running, stop_asked=True))  # as on the disk where the app was killed just then
    shooting.tests = LoadTests(shooting.bench)
    await shooting.tests.open()
    assert (await shooting.tests.get(run.id)).state is LoadState.STOPPED
    assert shooting.tests.running is None


@pytest.mark.slow
async def test_a_model_that_does_not_fit_is_named(shooting: Range) -> None:
    await shooting.deck.ready("second")
    with pytest.raises(Exception, match=r"second: Prompt and answer have up to 2,100 tokens"):
        await shooting.begin("quick", "second", input_len=2000, output_len=100)


@pytest.mark.slow
async def test_one_that_made_room_is_brought_back_but_not_one_that_a_person_has_stopped(shooting: Range) -> None:
    manager = shooting.deck.manager
    live = LiveRun(replace(cut_short(LoadState.RUNNING), found={"quick": "ready"}), shooting.store)
    await shooting.deck.ready("quick")
    manager.switch("second", leaving="quick")
    await shooting.deck.ready("second")
    assert state_of(shooting, "quick") is ServerState.STOPPED
    await bring_back(live, shooting.bench)
    assert state_of(shooting, "quick") is ServerState.READY

    await shooting.deck.stop("quick")
    await bring_back(live, shooting.bench)
    assert state_of(shooting, "quick") is ServerState.STOPPED
