"""Load tests from the request to their end, with real processes."""

from __future__ import annotations

import pytest
from fakes import AddModel
from processes import eventually
from shooting_range import Range

from server_manager.errors import NotAllowed, SpecError, StateDirError, UnknownLoadTest, UnknownModel
from server_manager.load_test.run import LoadRun, LoadState
from server_manager.load_test.runner import LoadTests
from server_manager.load_test.store import RunStore

pytestmark = pytest.mark.slow


async def test_a_sweep_gives_figures_for_each_level(shooting: Range) -> None:
    run = await shooting.begin("quick", concurrency=[1, 4], num_prompts=6, goodput={"ttft": 1000})
    run = await shooting.reach(run.id)
    assert run.state is LoadState.DONE, run
    (row,) = run.rows
    assert (row.was, row.max_model_len, run.environment.vllm_version) == ("started", 2048, "0.32.0")
    assert row.load_s is not None
    assert [level.label for level in row.levels] == ["1", "4"]
    for level, count in zip(row.levels, (6, 8), strict=True):
        assert level.metrics is not None
        assert (level.metrics.completed, level.metrics.failed) == (count, 0), "never fewer than twice the concurrency"
        assert level.metrics.total_output_tokens == 4 * count
        assert level.metrics.request_goodput == pytest.approx(level.metrics.request_throughput)
        assert level.metrics.p50_ttft_ms is not None
        assert level.metrics.p50_ttft_ms <= level.metrics.p99_ttft_ms
        assert sum(level.ttft_histogram.counts) == count
        assert level.samples is not None
        assert len(level.samples.t) == len(level.samples.num_requests_running) >= 1
    assert row.levels[0].seed != row.levels[1].seed, "or the second would find its prompts in the prefix cache"
    assert await shooting.store_holds(run)

    again = await shooting.reach((await shooting.tests.repeat(run.id)).id)
    assert (again.rows[0].was, again.state, again.settings) == ("ready", LoadState.DONE, run.settings)
    assert (await shooting.tests.rename(run.id, "  before \n the change ")).name == "before the change"
    assert [found.name for found in shooting.tests.listed()] == ["quick", "before the change"]
    await shooting.tests.delete(run.id)
    with pytest.raises(UnknownLoadTest):
        await shooting.tests.get(run.id)
    assert not shooting.store.folder(run.id).exists()


async def test_the_servers_key_goes_to_the_generator_and_nowhere_else(shooting: Range) -> None:
    run = await shooting.reach((await shooting.begin("quick")).id)
    key = shooting.deck.manager.server("quick").client().api_key
    assert key
    assert run.state is LoadState.DONE, "the server refuses requests without it"
    assert 'OPENAI_API_KEY="$OPENAI_API_KEY" vllm bench serve' in run.rows[0].levels[0].command
    for path in shooting.store.folder(run.id).iterdir():
        assert key not in path.read_text(), path.name


async def test_stop_leaves_nothing_running_and_lets_the_next_one_begin(shooting: Range) -> None:
    slow = await shooting.begin("slow", output_len=500, num_warmups=0)
    waiting = await shooting.begin("quick")
    dropped = await shooting.begin("quick")
    assert [shooting.tests.position(run.id) for run in (slow, waiting, dropped)] == [None, 1, 2]
    await shooting.measuring(slow.id)
    (generator,) = shooting.generators
    assert generator.startswith("load-test-of-slow:"), "what looks for leftovers knows it"
    with pytest.raises(NotAllowed):
        await shooting.tests.delete(slow.id)
    assert (await shooting.tests.stop(dropped.id)).state is LoadState.STOPPED
    stopped = await shooting.tests.stop(slow.id)
    assert not shooting.processes()
    assert (stopped.state, stopped.rows[0].state) == (LoadState.STOPPED, LoadState.STOPPED)
    assert stopped.rows[0].levels[0].state is LoadState.STOPPED
    await shooting.deck.reach_running("slow", 0)
    assert (await shooting.reach(waiting.id)).state is LoadState.DONE
    with pytest.raises(NotAllowed):
        await shooting.tests.stop(waiting.id)
    assert not shooting.generators


async def test_a_server_that_dies_is_the_reason(shooting: Range, add_model: AddModel) -> None:
    add_model("mortal", crash_after=30, tokens_per_second=100)
    run = await shooting.reach((await shooting.begin("mortal", output_len=400, concurrency=[2, 4])).id)
    (row,) = run.rows
    assert (run.state, row.state) == (LoadState.FAILED, LoadState.FAILED)
    assert row.error is not None
    assert row.error.message.startswith("mortal ended")
    assert run.error == row.error
    assert row.diagnosis is not None
    assert row.levels[0].error == row.error
    assert row.levels[1].error is not None
    assert row.levels[1].error.code == "not_run"
    assert not shooting.processes()


async def test_a_server_that_is_stopped_meanwhile(shooting: Range) -> None:
    run = await shooting.begin("slow", output_len=500, num_warmups=0)
    await shooting.measuring(run.id)
    await shooting.deck.stop("slow")
    run = await shooting.reach(run.id)
    assert run.error is not None
    assert "was stopped" in run.error.message


async def test_a_model_that_does_not_start(shooting: Range, add_model: AddModel) -> None:
    add_model("broken", exit_code=1)
    run = await shooting.reach((await shooting.begin("broken")).id)
    (row,) = run.rows
    assert row.state is LoadState.FAILED
    assert row.diagnosis is not None
    assert {level.state for level in row.levels} == {LoadState.FAILED}


async def test_a_generator_that_cannot_do_its_work(shooting: Range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_BENCH_FAIL", "OSError: Can't load tokenizer for 'x/y'. If you were trying to load it, …")
    run = await shooting.reach((await shooting.begin("quick", concurrency=[1, 2])).id)
    (row,) = run.rows
    assert row.error is not None
    assert "cannot get the tokenizer" in row.error.message
    assert row.error.facts["why"] == "tokenizer"
    assert [level.state for level in row.levels] == [LoadState.FAILED, LoadState.FAILED]

    monkeypatch.delenv("FAKE_BENCH_FAIL")
    run = await shooting.reach((await shooting.begin("quick", tokenizer="/no/such/folder")).id)
    assert run.error is not None
    assert "There is no folder /no/such/folder" in run.error.message


async def test_an_exit_code_of_0_without_a_result_is_a_failure(
    shooting: Range, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BENCH_NO_RESULT", "1")
    run = await shooting.reach((await shooting.begin("quick")).id)
    assert run.state is LoadState.FAILED


async def test_what_cannot_work_is_refused_at_once(shooting: Range) -> None:
    with pytest.raises(UnknownModel):
        await shooting.begin("nobody")
    await shooting.deck.ready("quick")
    with pytest.raises(SpecError, match="context is 2,048") as caught:
        await shooting.begin("quick", input_len=2000, output_len=100)
    assert caught.value.facts["key"] == "input_len"
    assert shooting.tests.listed() == []


async def test_a_prompt_that_only_the_chat_template_makes_too_long(shooting: Range) -> None:
    """The fake's template adds 4 tokens, which is known only once it is up."""
    run = await shooting.reach((await shooting.begin("quick", input_len=2000, output_len=46)).id)
    assert run.error is not None
    assert "its chat template adds 4 tokens" in run.error.message


async def test_a_search_keeps_each_level_that_it_tried(shooting: Range) -> None:
    sla = {"ttft_p99_ms": 60_000, "max_concurrency": 3}
    run = await shooting.reach((await shooting.begin("quick", sla=sla, num_prompts=2)).id)
    assert run.sla is not None
    assert (run.sla.highest, run.sla.too_high) == (3, None)
    assert [level.label for level in run.rows[0].levels] == ["1", "2", "3"]
    assert [tried.concurrency for tried in run.sla.tried] == [1, 2, 3]
    assert "3 requests at a time" in run.sla.words


async def test_an_app_that_ends_and_comes_back(shooting: Range) -> None:
    run = await shooting.begin("slow", output_len=500, num_warmups=0, concurrency=[1, 2])
    waiting = await shooting.begin("quick")
    await shooting.measuring(run.id)
    killed: LoadRun = await shooting.tests.get(run.id)
    await shooting.tests.close()
    assert not shooting.processes()
    assert shooting.store.load(run.id).state is LoadState.INTERRUPTED

    shooting.store.save(killed)  # as it is on the disk after kill -9
    later = LoadTests(shooting.bench)
    shooting.tests = later
    await later.open()
    found = await later.get(run.id)
    assert (found.state, found.rows[0].state) == (LoadState.INTERRUPTED, LoadState.INTERRUPTED)
    assert [level.state for level in found.rows[0].levels] == [LoadState.INTERRUPTED, LoadState.QUEUED]
    assert (await shooting.reach(waiting.id)).state is LoadState.DONE, "what waited gets its turn"


async def test_a_disk_that_is_full_at_the_end_costs_no_figures(
    shooting: Range, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await shooting.begin("quick")
    save = RunStore.save

    def full(store: RunStore, run: LoadRun) -> None:
        if run.is_over or run.name == "the next one":
            raise StateDirError("The load test cannot be saved: No space left on device.", "Free some space.")
        save(store, run)

    monkeypatch.setattr(RunStore, "save", full)
    run = await shooting.reach(run.id)
    assert run.rows[0].levels[0].metrics is not None
    await eventually(lambda: shooting.tests.running is None, "it is over")
    found = await shooting.tests.get(run.id)
    assert found.error is not None
    assert "No space left" in found.error.message
    assert shooting.tests.listed()[0].state is LoadState.DONE
    with pytest.raises(StateDirError):
        await shooting.tests.begin(["quick"], run.settings, "the next one")  # nothing runs that cannot be kept
    assert len(shooting.tests.listed()) == 1
