"""A server's life with real processes: a fake vLLM that behaves as the real one was measured to."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import psutil
import pytest
from fakes import AddModel, Deck, statuses
from processes import VLLM_LOGS, eventually, is_serving, processes_below

from server_manager.client import ClientSession
from server_manager.errors import ServerUnreachable, StartError
from server_manager.server_state import ExitCause, ServerState
from server_manager.settings import Settings
from server_manager.start_phase import StartPhase

Keeping = Callable[[], Awaitable[Deck]]
CAUSES = {
    "bad_value": ("bad_choice", 2, "foo is not a value of --dtype."),
    "gpu_kv_small": ("kv_cache_too_small", 1, "that needs 0.38 GiB, and 0.02 GiB are left."),
    "max_model_len": ("max_model_len_too_large", 1, "The context of 100000 tokens is longer than the model can handle"),
}
"""One for each place that a cause comes from; all recorded ones are read in ``diagnosis/test_recorded_logs``."""


def is_alive(pid: int) -> bool:
    """Zombies whose parent takes its time do not count."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
async def keeping(settings: Settings, session: ClientSession) -> AsyncIterator[Keeping]:
    """Opens one app after the other that keep their servers; those of the last are ended after the test."""
    decks: list[Deck] = []

    async def open_deck() -> Deck:
        decks.append(Deck(replace(settings, keep_servers=True), session))
        await decks[-1].manager.open()
        return decks[-1]

    yield open_deck
    for name in decks[-1].manager.names():
        await decks[-1].stop(name)
    for deck in decks:
        for server in deck.manager._servers.values():
            if (handle := getattr(server, "_handle", None)) is not None:
                handle.poll()  # the test is the parent of what an app that has ended would leave to init
                # An app that has ended looks no more; a last look that was under way here may have made it another.
                if (guardian := handle._guardian) is not None:
                    await guardian.close()


@pytest.mark.parametrize(("log", "expected"), CAUSES.items(), ids=CAUSES.keys())
async def test_failed_start_says_the_cause(
    deck: Deck, add_model: AddModel, log: str, expected: tuple[str, int, str]
) -> None:
    cause, code, words = expected
    add_model("m", replay=VLLM_LOGS / f"err_{log}.log", exit_code=code)
    with pytest.raises(StartError) as caught:
        await deck.ready("m")
    assert words in str(caught.value)
    end = deck.manager.server("m").status.exit
    assert end is not None
    assert (end.cause, end.returncode) == (ExitCause.FAILED_TO_START, code)
    assert end.diagnosis is not None
    assert end.diagnosis.cause == cause
    assert words in end.message
    assert end.next_step == end.diagnosis.remedy
    assert end.log_tail
    assert deck.manager.server("m").status.state is ServerState.FAILED


async def test_no_cause_is_invented_for_a_server_that_was_killed(deck: Deck, add_model: AddModel) -> None:
    add_model("m", replay=VLLM_LOGS / "stop_kill9_loading.log", exit_code=1)
    with pytest.raises(StartError, match="names no reason"):
        await deck.ready("m")
    end = deck.manager.server("m").status.exit
    assert end is not None
    assert "dmesg" in end.next_step
    assert end.diagnosis is not None
    assert not end.diagnosis.known


async def test_fixes_are_computed_from_the_flags_of_the_start(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"chat-template": "/nope/t"}, replay=VLLM_LOGS / "err_chat_template.log", exit_code=1)
    with pytest.raises(StartError):
        await deck.ready("m")
    end = deck.manager.server("m").status.exit
    assert end is not None
    assert end.diagnosis is not None
    assert [fix.label for fix in end.diagnosis.fixes] == ["Start without --chat-template"]


async def test_start_after_a_failed_one(deck: Deck, add_model: AddModel) -> None:
    add_model("m", exit_code=1)
    with pytest.raises(StartError):
        await deck.ready("m")
    add_model("m")
    server = await deck.ready("m")
    assert server.status.exit is None
    assert (await deck.ask("m")).content.startswith("word0 word1")


@pytest.mark.parametrize("ready_after", [0, 600])
async def test_stop_while_vllm_loads_or_imports(deck: Deck, add_model: AddModel, ready_after: float) -> None:
    add_model("m", ready_after=ready_after or 600, setsid=1, shm=1)
    server = deck.manager.start("m")
    await eventually(lambda: server.status.pid, "a process")
    if ready_after:
        await eventually(lambda: server.status.phase is StartPhase.CONFIG, "a phase of the log")
    end = await deck.stop("m")
    assert end is not None
    assert (end.cause, end.returncode) == (ExitCause.STOPPED, -signal.SIGKILL)


async def test_stop_when_ready(deck: Deck, add_model: AddModel) -> None:
    add_model("m", shm=1)
    server = await deck.ready("m")
    port = server.status.port
    assert port is not None
    end = await deck.stop("m")
    assert end is not None
    assert (end.cause, end.returncode) == (ExitCause.STOPPED, 0)
    assert end.seconds > 0
    assert server.status.state is ServerState.STOPPED
    assert not is_serving(port)
    assert await deck.stop("m") is None


async def test_stop_with_an_open_answer(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=10_000, tokens_per_second=20)
    await deck.ready("m")
    asking = asyncio.create_task(deck.ask("m"))
    await deck.reach_running("m", 1)
    end = await deck.stop("m")
    with pytest.raises(ServerUnreachable, match="m was stopped in the middle of the answer"):
        await asking
    assert end is not None
    assert end.returncode == 0, "it ends by itself once its client is gone"
    assert "Waiting for connections to close" in deck.log("m")


async def test_a_short_open_answer_comes_to_its_end(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"shutdown-timeout": 20}, answer_tokens=20, tokens_per_second=20)
    await deck.ready("m")
    asking = asyncio.create_task(deck.ask("m"))
    await deck.reach_running("m", 1)
    await deck.stop("m")
    answer = await asking
    assert answer.content.split() == [f"word{i}" for i in range(20)]


async def test_stop_with_a_stranger_connected(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"shutdown-timeout": 0}, answer_tokens=10_000, tokens_per_second=20)
    server = await deck.ready("m")
    stranger = server.client()
    async with aiohttp.ClientSession(headers=stranger.headers) as http:
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        async with http.post(f"{stranger.base_url}/v1/chat/completions", json=body) as answer:
            await answer.content.readany()
            end = await deck.stop("m")
    assert end is not None
    assert end.returncode == -signal.SIGKILL


async def test_stop_of_what_ignores_sigterm(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"shutdown-timeout": 0}, sigterm="ignore")
    await deck.ready("m")
    ends = await asyncio.gather(deck.stop("m"), deck.stop("m"))
    assert ends[0] == ends[1]
    assert ends[0] is not None
    assert ends[0].returncode == -signal.SIGKILL


async def test_crash_while_serving_is_a_crash_though_its_code_is_0(
    deck: Deck, add_model: AddModel, tmp_path: Path
) -> None:
    log = tmp_path / "oom.log"
    log.write_text(
        "INFO:     Application startup complete.\n"
        "(EngineCore pid=2) ERROR 11-22 10:45:47 [core.py:1000] torch.OutOfMemoryError: CUDA out of memory.\n"
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above)\n"
    )
    add_model("m", replay=log, answer_tokens=100, tokens_per_second=100, crash_after=5)
    await deck.ready("m")
    with pytest.raises(ServerUnreachable, match="ran out of memory while it served"):
        await deck.ask("m")
    await deck.reach("m", ServerState.FAILED)
    end = deck.manager.server("m").status.exit
    assert end is not None
    assert (end.cause, end.returncode) == (ExitCause.CRASHED, 0)
    assert end.diagnosis is not None
    assert "CUDA out of memory" in end.diagnosis.evidence
    assert (await deck.turns())[0].assistant.startswith("word0 ")
    assert "ran out of memory" in (await deck.turns())[0].note


async def test_engine_core_killed_while_serving(deck: Deck, add_model: AddModel) -> None:
    add_model("m", shm=1)
    server = await deck.ready("m")
    engine = next(info for info in server.processes() if info.name.startswith("VLLM::EngineCor"))
    os.kill(engine.pid, signal.SIGKILL)
    await deck.reach("m", ServerState.FAILED)
    end = server.status.exit
    assert end is not None
    assert (end.cause, end.returncode) == (ExitCause.CRASHED, 0)
    assert "was killed from outside while it served" in end.message


async def test_leader_killed_leaves_nothing(deck: Deck, add_model: AddModel) -> None:
    add_model("m", setsid=1)
    server = await deck.ready("m")
    pids = [info.pid for info in server.processes()]
    assert len(pids) == 3
    assert server.status.pid is not None
    os.kill(server.status.pid, signal.SIGKILL)
    await deck.reach("m", ServerState.FAILED)
    assert not [pid for pid in pids if is_alive(pid)]
    end = server.status.exit
    assert end is not None
    assert (end.cause, end.returncode) == (ExitCause.CRASHED, -signal.SIGKILL)
    assert "killed from outside while it served (SIGKILL)" in end.message


async def test_stalled_start_says_where_it_hangs(
    settings: Settings, session: ClientSession, add_model: AddModel
) -> None:
    deck = Deck(replace(settings, stall_after=1.0), session)
    add_model("m", ready_after=5000)
    with pytest.raises(StartError, match=r"Nothing has moved for \d s, in the phase “config”"):
        await deck.ready("m")
    end = deck.manager.server("m").status.exit
    assert end is not None
    assert (end.cause, end.code) == (ExitCause.STALLED, "start_stalled")
    assert end.log_tail


async def test_phases_of_a_start_in_order(deck: Deck, add_model: AddModel) -> None:
    add_model("m", ready_after=2)
    server = deck.manager.server("m")
    phases: list[StartPhase] = []

    async def look() -> None:
        async for status in statuses(server):
            if status.phase and status.phase not in phases[-1:]:
                phases.append(status.phase)
            if status.state is ServerState.READY:
                return

    looking = asyncio.create_task(look())
    await asyncio.sleep(0)
    server.start()
    await looking
    assert phases == [phase for phase in StartPhase if phase in phases], "never back"
    assert {StartPhase.PREPARE, StartPhase.IMPORT, StartPhase.CONFIG, StartPhase.WEIGHTS} <= set(phases)
    assert server.status.phase is None
    assert server.status.max_model_len == 2048


async def test_noise_in_the_log_hurts_nothing(deck: Deck, add_model: AddModel) -> None:
    add_model("m", noise=1)
    await deck.ready("m")


async def test_kept_server_is_adopted(keeping: Keeping, add_model: AddModel) -> None:
    add_model("m", answer_tokens=3)
    first = await keeping()
    before = (await first.ready("m")).status
    await first.manager.close()
    log_before = first.log("m")
    second = await keeping()
    after = (await second.ready("m")).status
    assert after.pid == before.pid
    assert after.port == before.port
    assert after.kept
    assert after.started_at == pytest.approx(before.started_at, abs=5)
    assert (await second.ask("m")).content == "word0 word1 word2 "
    assert second.log("m").startswith(log_before)
    assert "POST /v1/chat/completions" in second.log("m")[len(log_before) :]
    end = await second.stop("m")
    assert end is not None
    assert end.cause is ExitCause.STOPPED
    assert processes_below(Path(os.environ["TMPDIR"])) == []


async def test_server_that_still_loads_is_left_and_adopted(keeping: Keeping, add_model: AddModel) -> None:
    add_model("m", ready_after=2)
    first = await keeping()
    server = first.manager.start("m")
    await eventually(lambda: server.status.pid, "a process")
    pid = server.status.pid
    await first.manager.close()
    second = await keeping()
    assert (await second.ready("m")).status.pid == pid


async def test_end_of_an_adopted_server_is_noticed(keeping: Keeping, add_model: AddModel) -> None:
    add_model("m")
    first = await keeping()
    await first.ready("m")
    await first.manager.close()
    second = await keeping()
    pid = (await second.ready("m")).status.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await second.reach("m", ServerState.FAILED)
    assert processes_below(Path(os.environ["TMPDIR"])) == []


async def test_wrong_start_time_is_not_adopted(keeping: Keeping, add_model: AddModel) -> None:
    add_model("m")
    first = await keeping()
    pid = (await first.ready("m")).status.pid
    assert pid is not None
    store = first.manager._shared.store
    record = store.load_all()[0]
    await first.manager.close()
    # As after a restart of the machine, when another process happens to have the pid: none of its environment is ours.
    store.save(replace(record, start_ticks=record.start_ticks + 7, marker="m:another"))
    second = await keeping()
    assert second.manager.server("m").status.state is ServerState.STOPPED
    assert is_alive(pid), "it may be anybody's"
    assert store.load_all() == ()
    store.save(record)
    third = await keeping()
    assert (await third.ready("m")).status.pid == pid


async def test_closing_ends_all(settings: Settings, session: ClientSession, add_model: AddModel) -> None:
    deck = Deck(settings, session)
    add_model("ready", {"shutdown-timeout": 0}, sigterm="ignore", answer_tokens=10_000, tokens_per_second=20)
    add_model("loads", ready_after=600)
    await deck.ready("ready")
    asking = asyncio.create_task(deck.ask("ready"))
    await deck.reach_running("ready", 1)
    loading = deck.manager.start("loads")
    await eventually(lambda: loading.status.pid, "a process")
    await deck.manager.close()
    with pytest.raises(ServerUnreachable):
        await asking
    assert processes_below(Path(os.environ["TMPDIR"])) == []
    assert {status.state for status in deck.manager.statuses().values()} == {ServerState.STOPPED}
