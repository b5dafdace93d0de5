"""What a pick costs, as the page is told: from what was measured, without reading files at each look."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeReadings

from server_manager.hub_sizes import HubSizes
from server_manager.memory_plan.cost import CostKind, SwitchCost
from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.history import MemoryHistory
from server_manager.memory_plan.measured import Measure
from server_manager.memory_plan.world import GIB, Device, UpServer
from server_manager.memory_plan.world import World as PlannedWorld
from server_manager.model_spec import ModelSpec
from server_manager.server_state import ServerState, ServerStatus, SleepView
from server_manager.settings import Settings
from server_manager.start_history import StartHistory, StartRecord
from server_manager.start_meter import StartProgressView
from server_manager.start_subject import StartSubject, start_subject
from server_manager.switching.rooms import Board, Planned
from server_manager.switching.uses import Uses
from server_manager.switching.view import SwitchViews

SUBJECT = StartSubject("/models/alpha", "H100", {})


class StillBoard:
    """Nobody moves, but those that the test says."""

    waking: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()
    uses = Uses(lambda: None)

    def is_moving(self, name: str) -> bool:
        return name in self.moving

    def is_waking(self, name: str) -> bool:
        return name in self.waking

    def is_in_line(self, name: str) -> bool:
        return False

    def is_wanted(self, name: str) -> bool:
        return False


class StillRooms:
    """The planner's view, as the test says."""

    def __init__(self) -> None:
        self.planned: dict[str, Planned] = {}
        self.world: PlannedWorld | None = None

    async def as_it_is(self, board: Board) -> PlannedWorld | None:
        return self.world


class World:
    """A catalogue, the histories and the views over them."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        self.settings = Settings(tmp_path, tmp_path / "models", ("no-python",))
        self.specs = [ModelSpec("alpha", "/models/alpha"), ModelSpec("hub", "org/never-seen")]
        self.rooms = StillRooms()
        self.planned = self.rooms.planned
        self.board = StillBoard()
        self.reads = 0
        self.sizes = HubSizes(self.settings.hub_sizes_path)
        history = MemoryHistory(self.settings.memory_history_path)
        self.views = SwitchViews(
            self.settings, FakeReadings(), self._specs, self.rooms, self.board, history, self.sizes
        )

    def _specs(self) -> list[ModelSpec]:
        self.reads += 1
        return self.specs

    def status(self, name: str = "alpha", state: ServerState = ServerState.STOPPED, **more: Any) -> ServerStatus:
        return ServerStatus(name, state, **more)

    async def cost(self, status: ServerStatus) -> SwitchCost | None:
        await self.views.refresh()
        return self.views.of({status.name: status})[status.name].cost

    def was_started(self, seconds: float, **options: object) -> None:
        subject = start_subject("/models/alpha", options, {}, devices=(), vllm_python="no-python")
        StartHistory(self.settings.start_history_path).add(subject, StartRecord(time.time(), seconds, False, {}))

    def measured(self, measure: Measure, value: float, name: str = "alpha") -> None:
        subject = replace(SUBJECT, model=f"/models/{name}")
        MemoryHistory(self.settings.memory_history_path).record(subject, measure, value)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


async def test_nothing_is_said_before_the_files_were_read(world: World) -> None:
    assert world.views.of({"alpha": world.status()})["alpha"].cost is None
    await world.views.close()
    found = world.views.of({"alpha": world.status()})["alpha"].cost
    assert found is not None
    assert found.kind is CostKind.COLD


async def test_never_started_model_is_cold_for_an_unknown_time(world: World) -> None:
    assert await world.cost(world.status()) == SwitchCost(CostKind.COLD, None)


async def test_cold_start_takes_as_long_as_the_last_one_with_the_nearest_flags(world: World) -> None:
    world.was_started(40)
    world.was_started(95, **{"max-model-len": 8192})
    assert await world.cost(world.status()) == SwitchCost(CostKind.COLD, 40)
    world.specs[0] = ModelSpec("alpha", "/models/alpha", {"max-model-len": 8192})
    assert await world.cost(world.status()) == SwitchCost(CostKind.COLD, 95)


async def test_failed_one_costs_a_cold_start(world: World) -> None:
    world.was_started(40)
    assert await world.cost(world.status(state=ServerState.FAILED)) == SwitchCost(CostKind.COLD, 40)


async def test_model_of_a_hub_is_downloaded_first(world: World, tmp_path: Path) -> None:
    assert await world.cost(world.status("hub")) == SwitchCost(CostKind.DOWNLOAD, None)
    there = tmp_path / "hub" / "hub" / "models--org--never-seen"
    (there / "refs").mkdir(parents=True)
    (there / "refs" / "main").write_text("1234")
    (there / "snapshots" / "1234").mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (there / "snapshots" / "1234" / name).write_text("{}")
    world.views._read_at = float("-inf")
    assert await world.cost(world.status("hub")) == SwitchCost(CostKind.COLD, None)


async def test_wake_takes_what_it_took_before_by_level(world: World) -> None:
    world.planned["alpha"] = Planned(Decision(), SUBJECT)
    world.measured(Measure.WAKE_S, 0.4)
    world.measured(Measure.RELOAD_S, 3.5)
    asleep = world.status(state=ServerState.ASLEEP, sleep=SleepView(frees_memory=True, level=1, wake_s=9.0))
    assert await world.cost(asleep) == SwitchCost(CostKind.ASLEEP, 0.4)
    deeper = world.status(state=ServerState.ASLEEP, sleep=SleepView(frees_memory=True, level=2, wake_s=0.4))
    assert await world.cost(deeper) == SwitchCost(CostKind.ASLEEP, 3.5)


async def test_wake_that_is_in_no_history_takes_what_this_server_took(world: World) -> None:
    asleep = world.status(state=ServerState.ASLEEP, sleep=SleepView(frees_memory=True, level=1, wake_s=0.7))
    assert await world.cost(asleep) == SwitchCost(CostKind.ASLEEP, 0.7)
    deeper = world.status(state=ServerState.ASLEEP, sleep=SleepView(frees_memory=True, level=2, wake_s=0.7))
    assert await world.cost(deeper) == SwitchCost(CostKind.ASLEEP, None), "reading the weights again is another matter"


async def test_start_that_is_on_says_what_is_left(world: World) -> None:
    starting = world.status(state=ServerState.STARTING, progress=StartProgressView(3.0, 1.0, eta_s=37.5))
    assert await world.cost(starting) == SwitchCost(CostKind.STARTING, 37.5)
    assert await world.cost(world.status(state=ServerState.STARTING)) == SwitchCost(CostKind.STARTING, None)


async def test_ready_one_costs_nothing_and_one_that_is_away_cannot_be_picked(world: World) -> None:
    assert await world.cost(world.status(state=ServerState.READY)) == SwitchCost(CostKind.READY, 0.0)
    assert await world.cost(world.status(attached=True)) is None


async def test_many_looks_read_once(world: World) -> None:
    for _ in range(50):
        world.views.of({"alpha": world.status()})
        await world.views.close()
    assert world.reads == 1
    world.views.of({"alpha": world.status(state=ServerState.READY)})
    await world.views.close()
    assert world.reads == 2, "a change of state is looked at at once"


async def test_what_moves_and_what_was_planned_is_told(world: World) -> None:
    world.planned["alpha"] = Planned(Decision(will_hold={"GPU-0": 30, "GPU-1": 30}), None)
    ready, asleep = (world.status(state=state) for state in (ServerState.READY, ServerState.ASLEEP))
    assert world.views.of({"alpha": ready})["alpha"].planned_bytes == 60
    assert world.views.of({"alpha": asleep})["alpha"].planned_bytes is None
    world.board.moving = frozenset({"alpha"})
    assert world.views.of({"alpha": asleep})["alpha"].moving == "falling_asleep"
    world.board.waking = frozenset({"alpha"})
    assert world.views.of({"alpha": asleep})["alpha"].moving == "waking"
    await world.views.close()


async def test_what_others_take_to_make_room_counts_too(world: World) -> None:
    """Alpha, asleep, takes back 50 GiB of a GPU with 20 GiB free: beta sleeps first, or is in use."""
    world.planned["alpha"] = Planned(Decision(), SUBJECT)
    world.planned["beta"] = Planned(Decision(), replace(SUBJECT, model="/models/beta"))
    world.measured(Measure.WAKE_S, 0.4)
    asleep = world.status(state=ServerState.ASLEEP, sleep=SleepView(frees_memory=True, level=1))
    gpu = Device("GPU-0", 0, 80 * GIB, 20 * GIB)
    alpha = UpServer("alpha", ServerState.ASLEEP, held={"GPU-0": GIB}, will_hold={"GPU-0": 51 * GIB})
    beta = UpServer(
        "beta", ServerState.READY, held={"GPU-0": 50 * GIB}, residue={"GPU-0": GIB}, sleep_levels=(1,), host_bytes=0
    )
    world.rooms.world = PlannedWorld((gpu,), (alpha, beta), 100 * GIB)
    assert await world.cost(asleep) == SwitchCost(CostKind.ASLEEP, None), "nobody has measured how beta falls asleep"
    world.measured(Measure.LATER_SLEEP_S, 0.3, "beta")
    assert await world.cost(asleep) == SwitchCost(CostKind.ASLEEP, pytest.approx(0.7))
    world.rooms.world = PlannedWorld((gpu,), (alpha, replace(beta, in_use=True)), 100 * GIB)
    assert await world.cost(asleep) == SwitchCost(CostKind.ASLEEP, None), "nobody knows how long an answer takes"
    roomy = replace(gpu, free_bytes=70 * GIB)
    world.rooms.world = PlannedWorld((roomy,), (alpha,), 100 * GIB)
    assert await world.cost(asleep) == SwitchCost(CostKind.ASLEEP, 0.4)
