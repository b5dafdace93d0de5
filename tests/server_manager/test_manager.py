"""The set of servers, over real processes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from fakes import AddModel, Deck, statuses
from processes import eventually

from server_manager.client import ClientSession
from server_manager.errors import ManagerClosed, SpecError, StartError, UnknownModel
from server_manager.launchers.local_handle import LocalServerHandle
from server_manager.metrics_poller import MetricsPoller
from server_manager.server_state import ExitCause, ServerState
from server_manager.settings import Settings
from server_manager.switching import switchboard
from server_manager.telemetry.base import DeviceProcess, DeviceSnapshot

GIB = 2**30


def device(index: int, free_gib: float | None, total_gib: int = 80) -> DeviceSnapshot:
    free = None if free_gib is None else int(free_gib * GIB)
    return DeviceSnapshot(index, None, "H100", memory_total_bytes=total_gib * GIB, memory_free_bytes=free)


async def test_switch_stops_the_one_left_and_starts_the_other(deck: Deck, add_model: AddModel) -> None:
    add_model("first", {"shutdown-timeout": 0}, sigterm="ignore")
    add_model("second")
    await deck.ready("first")
    second = deck.manager.switch("second", leaving="first")
    await eventually(lambda: second.status.detail == "stopping first", "the switch tells what it waits for")
    statuses = deck.manager.statuses()
    assert statuses["first"].state is ServerState.STOPPING
    assert statuses["second"].state is ServerState.STARTING
    await deck.ready("second")
    assert deck.manager.server("first").status.state is ServerState.STOPPED


async def test_switch_that_keeps_the_other(deck: Deck, add_model: AddModel) -> None:
    add_model("first")
    add_model("second")
    await deck.ready("first")
    deck.manager.switch("second", leaving=None)
    await deck.ready("second")
    assert deck.manager.server("first").status.state is ServerState.READY


async def test_switch_to_one_that_is_up_stops_the_one_left(deck: Deck, add_model: AddModel) -> None:
    add_model("first")
    add_model("second")
    await asyncio.gather(deck.ready("first"), deck.ready("second"))
    pid = deck.manager.server("second").status.pid
    deck.manager.switch("second", leaving="first")
    await deck.reach("first", ServerState.STOPPED)
    assert deck.manager.server("second").status.pid == pid


async def test_switch_to_and_fro_ends_with_the_one_wanted_last(deck: Deck, add_model: AddModel) -> None:
    add_model("first", {"shutdown-timeout": 0}, sigterm="ignore")
    add_model("second")
    await deck.ready("first")
    deck.manager.switch("second", leaving="first")
    await deck.reach("first", ServerState.STOPPING)
    deck.manager.switch("first", leaving="second")
    await deck.reach("first", ServerState.READY)
    assert deck.manager.server("second").status.state is ServerState.STOPPED


async def test_switch_to_a_model_that_is_not_there_leaves_the_other_alone(deck: Deck, add_model: AddModel) -> None:
    add_model("first")
    add_model("second", {"model": "/nope/model"})
    await deck.ready("first")
    deck.manager.switch("second", leaving="first")
    await deck.reach("second", ServerState.FAILED)
    assert deck.manager.server("first").status.state is ServerState.READY
    with pytest.raises(UnknownModel):
        deck.manager.switch("third", leaving="first")
    assert deck.manager.server("first").status.state is ServerState.READY


async def test_switch_to_itself_stops_nothing(deck: Deck, add_model: AddModel) -> None:
    add_model("first")
    server = await deck.ready("first")
    pid = server.status.pid
    deck.manager.switch("first", leaving="first")
    await deck.ready("first")
    assert server.status.pid == pid


async def test_start_during_a_stop_is_not_forgotten(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"shutdown-timeout": 0}, sigterm="ignore")
    server = await deck.ready("m")
    pid = server.status.pid
    stop = asyncio.create_task(deck.stop("m"))
    await deck.reach("m", ServerState.STOPPING)
    deck.manager.start("m")
    await stop
    await deck.reach("m", ServerState.READY)
    assert server.status.pid != pid


async def test_unknown_model(deck: Deck, add_model: AddModel) -> None:
    add_model("m")
    for question in (deck.manager.start, deck.manager.server):
        with pytest.raises(UnknownModel, match=r"no model 'nope'.*m"):
            question("nope")
    with pytest.raises(UnknownModel):
        await deck.manager.ensure_ready("nope")
    assert deck.manager.names() == ("m",)


async def test_model_whose_file_cannot_be_read_gives_its_reason_to_all(deck: Deck, add_model: AddModel) -> None:
    add_model("seen")
    assert deck.manager.server("seen").status.state is ServerState.STOPPED
    for name in ("seen", "new"):
        (deck.settings.models_dir / f"{name}.yaml").write_text("model: x\ndtype: true\n")
        for question in (deck.manager.start, deck.manager.server):
            with pytest.raises(SpecError, match=rf"models/{name}\.yaml line 2"):
                question(name)
        for waiting in (deck.manager.ensure_ready(name), deck.ask(name)):
            with pytest.raises(SpecError, match=rf"models/{name}\.yaml line 2"):
                await waiting
    assert deck.manager.names() == ()


async def test_closed_manager_refuses(deck: Deck, add_model: AddModel) -> None:
    add_model("m")
    await deck.manager.close()
    with pytest.raises(ManagerClosed):
        deck.manager.start("m")
    with pytest.raises(ManagerClosed):
        await deck.manager.ensure_ready("m")
    with pytest.raises(ManagerClosed):
        deck.manager.switch("m", None)
    assert deck.manager.statuses()["m"].state is ServerState.STOPPED


async def test_waiters_when_the_manager_closes(deck: Deck, add_model: AddModel) -> None:
    add_model("m", ready_after=600)
    waiter = asyncio.create_task(deck.manager.ensure_ready("m"))
    await deck.reach("m", ServerState.STARTING)
    await deck.manager.close()
    with pytest.raises(ManagerClosed):
        await waiter


async def test_default_model(settings: Settings, session: ClientSession, add_model: AddModel) -> None:
    deck = Deck(settings, session)
    assert deck.manager.default_name(cpu_only=True) is None
    add_model("A")
    assert deck.manager.default_name(cpu_only=True) == "A"
    add_model("Qwen2-0.5B-Instruct")
    add_model("SmolLM2-135M-Instruct")
    assert deck.manager.default_name(cpu_only=True) == "SmolLM2-135M-Instruct"
    assert deck.manager.default_name(cpu_only=False) == "Qwen2-0.5B-Instruct"
    await deck.ready("A")
    await deck.manager.close()
    later = Deck(settings, session)
    assert later.manager.default_name(cpu_only=False) == "A", "the one used last"
    (settings.models_dir / "A.yaml").unlink()
    assert later.manager.default_name(cpu_only=False) == "Qwen2-0.5B-Instruct"


async def test_names_have_what_is_up_without_a_file(deck: Deck, add_model: AddModel, settings: Settings) -> None:
    add_model("m")
    add_model("n")
    await deck.ready("m")
    (settings.models_dir / "m.yaml").unlink()
    assert deck.manager.names() == ("n", "m")
    assert (await deck.ask("m")).content
    await deck.stop("m")
    assert deck.manager.names() == ("n",)


async def test_record_of_a_model_that_is_gone_leaves_no_trace(
    settings: Settings, session: ClientSession, add_model: AddModel
) -> None:
    kept = replace(settings, keep_servers=True)
    add_model("m")
    first = Deck(kept, session)
    await first.ready("m")
    store = first.manager._shared.store
    records = store.load_all()
    await first.stop("m")
    for record in records:
        store.save(record)
    (settings.models_dir / "m.yaml").unlink()
    second = Deck(kept, session)
    await second.manager.open()
    assert store.load_all() == ()
    with pytest.raises(UnknownModel):
        second.manager.start("m")


async def test_a_file_that_was_changed_is_used_at_the_next_start(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"max-model-len": 100})
    assert (await deck.ready("m")).status.max_model_len == 100
    await deck.stop("m")
    add_model("m", {"max-model-len": 2000})
    assert (await deck.ready("m")).status.max_model_len == 2000


@pytest.mark.parametrize(
    ("devices", "options", "message"),
    [
        (
            [device(0, 40.0)],
            {"gpu-memory-utilization": 0.6},
            r"needs 48\.\d GiB of GPU 0.*; 40\.0 GiB of 80\.0 GiB are",
        ),
        ([device(0, 1.5)], {}, r"; 1\.5 GiB of 80\.0 GiB are free and 0\.0 GiB could be freed"),
        ([device(0, 79.0), device(1, 1.5)], {"tensor-parallel-size": 2}, r"GPU 1.*; 1\.5 GiB of 80\.0 GiB are free"),
    ],
)
async def test_start_without_the_memory_is_refused(
    deck: Deck,
    add_model: AddModel,
    monkeypatch: pytest.MonkeyPatch,
    devices: list[DeviceSnapshot],
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.setattr(switchboard, "STILL_SECONDS", 0.1)
    add_model("m", options)
    deck.readings.devices = devices
    with pytest.raises(StartError, match=message):
        await deck.ready("m")
    end = deck.manager.server("m").status.exit
    assert end is not None
    assert (end.cause, end.code) == (ExitCause.NOT_LAUNCHED, "insufficient_memory")
    assert ("Lower gpu-memory-utilization" if "gpu-memory-utilization" in options else "End the other") in end.next_step


async def test_start_waits_for_memory_that_is_coming_free(deck: Deck, add_model: AddModel) -> None:
    """As after a stop: the driver takes the memory back bit by bit. The numbers are shown meanwhile."""
    add_model("m", {"gpu-memory-utilization": 0.92})
    deck.readings.script = [[device(0, free)] for free in (10.0, 30.0, 50.0, 79.0)]
    server = deck.manager.start("m")
    details: list[str] = []

    async def look() -> None:
        async for status in statuses(server):
            details.append(status.detail)

    looking = asyncio.create_task(look())
    await deck.ready("m")
    looking.cancel()
    assert any("waiting for memory" in text and "30.0 GiB of 80.0 GiB are free" in text for text in details)


async def test_refusal_names_who_holds_the_memory(
    deck: Deck, add_model: AddModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard, "STILL_SECONDS", 0.1)
    add_model("m", {"gpu-memory-utilization": 0.92})
    held = (DeviceProcess(71, 30 * 2**30, "python"), DeviceProcess(72, 9 * 2**30, "VLLM::EngineCore"))
    deck.readings.devices = [replace(device(0, 40.0), processes=held)]
    deck.readings.pids = {"Qwen2-7B": (72,)}
    with pytest.raises(StartError, match=r"Held by python, pid 71 \(30\.0 GiB\) and Qwen2-7B \(9\.0 GiB\)"):
        await deck.ready("m")


@pytest.mark.parametrize(
    ("devices", "options"),
    [
        ([device(0, 75.0)], {}),
        ([device(0, 40.0)], {}),
        ([device(0, 66.2)], {"kv-cache-memory-bytes": "1G"}),
        ([device(0, None)], {}),
        ([device(0, 20.0)], {"gpu-memory-utilization": 0.2}),
        ([device(0, 1.0), device(1, 80.0)], {"device-ids": "1"}),
        ([device(0, 79.0), device(1, 1.0)], {}),
    ],
)
async def test_start_with_the_memory_is_let_through(
    deck: Deck, add_model: AddModel, devices: list[DeviceSnapshot], options: dict[str, object]
) -> None:
    add_model("m", options)
    deck.readings.devices = devices
    server = await deck.ready("m")
    assert "--enforce-eager" not in server.status.command, "there is a GPU"


async def test_figures_of_the_servers_that_are_up(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=100_000, tokens_per_second=200)
    add_model("down")
    await deck.ready("m")
    poller = MetricsPoller(deck.manager, interval=0.05)
    poller.start()
    asking = asyncio.create_task(deck.ask("m"))
    try:
        await eventually(lambda: "m" in poller.latest and poller.latest["m"].num_requests_running == 1, "a request")
        await eventually(lambda: (poller.latest["m"].tokens_per_second or 0) > 20, "a rate")
        assert set(poller.latest) == {"m"}
        await deck.manager.server("m").stop(now=True)
        await eventually(lambda: poller.latest == {}, "nothing of a server that is down")
    finally:
        await poller.stop()
        await asyncio.gather(asking, return_exceptions=True)


async def test_figures_go_on_after_a_look_that_fails(
    deck: Deck, add_model: AddModel, caplog: pytest.LogCaptureFixture
) -> None:
    add_model("m")
    server = await deck.ready("m")
    poller = MetricsPoller(deck.manager, interval=0.05)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "client", lambda: [].pop())
        poller.start()
        await eventually(lambda: "figures of the servers failed" in caplog.text, "a look that fails")
    try:
        await eventually(lambda: "m" in poller.latest, "the figures")
    finally:
        await poller.stop()


async def test_last_model_that_cannot_be_noted_hurts_nothing(
    deck: Deck, add_model: AddModel, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    add_model("m")
    (settings.state_dir / "last-model").mkdir()
    with caplog.at_level(logging.WARNING):
        await deck.ready("m")
    assert "model used last" in caplog.text


async def test_what_cannot_be_tidied_up_at_the_start_does_not_keep_the_app_from_it(
    settings: Settings, session: ClientSession, add_model: AddModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of an earlier app hangs in a driver: its record stays for the next time, and the app works."""
    kept = replace(settings, keep_servers=True)
    add_model("m")
    first = Deck(kept, session)
    await first.ready("m")
    store = first.manager._shared.store
    (record,) = store.load_all()
    await first.stop("m")
    store.save(record)

    async def hangs(self: object) -> tuple[int, ...]:
        return (4711,)

    monkeypatch.setattr(LocalServerHandle, "kill", hangs)
    second = Deck(kept, session)
    await second.manager.open()
    assert store.load_all() == (record,)
    monkeypatch.undo()
    third = Deck(kept, session)
    await third.manager.open()
    assert store.load_all() == ()


async def test_mistake_in_an_idle_time_is_told_once(
    deck: Deck, add_model: AddModel, caplog: pytest.LogCaptureFixture
) -> None:
    name = add_model("m")
    env = deck.settings.models_dir / f"{name}.env"

    def told() -> int:
        deck.manager._patience(name)
        return caplog.text.count("is no number of minutes")

    env.write_text("DECK_SLEEP_AFTER=soon\n")
    assert [told() for _ in range(3)] == [1, 1, 1]
    env.write_text("DECK_SLEEP_AFTER=later\n")
    assert told() == 2
    env.write_text("DECK_SLEEP_AFTER=5\n")
    assert (told(), deck.manager._patience(name).sleep_after) == (2, 300)
