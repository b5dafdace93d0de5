"""What earlier servers took teaches the next prediction, and nothing wrong with the file hurts anybody."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from plan_shapes import QWEN2_05B, QWEN2_7B
from plan_worlds import GIB, decided, gib, gpu, need, up, world

from server_manager.memory_parts import MemoryParts, MemoryReader, RankMemory
from server_manager.memory_plan.chosen import ChosenFlags
from server_manager.memory_plan.cost import CostKind, SwitchCost, room_seconds, switch_cost
from server_manager.memory_plan.history import MAX_SUBJECTS, MemoryHistory, memory_subject, predicted_figures
from server_manager.memory_plan.measured import MAX_RUNS, Figures, Measure, actual_figures
from server_manager.memory_plan.need import Learned, NeedBasis, memory_needs
from server_manager.memory_plan.release import Action, Sleep, Stop, WaitFor, WaitReason
from server_manager.server_state import ServerState
from server_manager.start_subject import StartSubject

LOGS = Path(__file__).parents[2] / "vllm_logs"
REAL = Figures(gib(14.29), gib(55.62), gib(3.61))


@pytest.fixture
def history(tmp_path: Path) -> MemoryHistory:
    return MemoryHistory(tmp_path / "memory-history.json")


def subject(model: str = "org/name", device: str = "1 x H100", **features: str) -> StartSubject:
    return StartSubject(model, device, features)


def took(weights: float, overhead: float, more: int = 0) -> Figures:
    """Of the 73.5 GiB that a server has by vLLM's own share of an H100."""
    return Figures(gib(weights), gib(73.5 - weights - overhead) - more, gib(overhead) + more)


def started(history: MemoryHistory, which: StartSubject, actual: Figures = REAL, *, formula: float = 4.0) -> None:
    plan = need(14.2, overhead=formula, basis=NeedBasis.COMPUTED)
    decision = decided(world([gpu()]), plan)
    object.__setattr__(decision.need, "formula_overhead_bytes", gib(formula))
    history.record_start(which, decision, actual)


def test_nothing_is_known_at_first(history: MemoryHistory) -> None:
    assert history.learned(subject()) == Learned()
    assert history.predicted_and_actual(subject()) == ()
    assert history.typical(subject(), Measure.WAKE_S) is None


def test_second_start_is_planned_with_what_the_first_took(history: MemoryHistory, tmp_path: Path) -> None:
    started(history, subject())
    learned = history.learned(subject())
    assert learned == Learned(REAL.weights_bytes, REAL.overhead_bytes, is_same=True)
    shape = QWEN2_7B.shape(tmp_path / "model")
    (before,) = memory_needs(shape, ChosenFlags(), (gpu(),))
    (after,) = memory_needs(shape, ChosenFlags(), (gpu(),), lambda tp: learned)
    assert (before.basis, after.basis) == (NeedBasis.COMPUTED, NeedBasis.MEASURED)
    assert (after.weights_bytes, after.overhead_bytes) == (REAL.weights_bytes, REAL.overhead_bytes)
    assert (after.least_bytes or 0) < (before.least_bytes or 0)
    assert after.formula_overhead_bytes == before.overhead_bytes, "kept, so that other models can learn from it"


def test_median_of_the_last_starts_counts(history: MemoryHistory) -> None:
    for extra in (9, 9, 9, 0, 1, 2, 0, 3):
        started(history, subject(), took(14, 3, extra))
    assert history.learned(subject()).overhead_bytes == 3 * GIB + 1
    assert len(history.predicted_and_actual(subject())) == MAX_RUNS


def test_a_peak_that_is_not_held_when_it_is_ready_is_planned_for(history: MemoryHistory) -> None:
    """vLLM left it out of the cache: 0.92 of 79.18 GiB, and its context, less 14 of weights and 55 of cache."""
    started(history, subject(), Figures(gib(14), gib(55), gib(1)))
    assert history.learned(subject()).overhead_bytes == pytest.approx(gib(0.92 * 79.18 + 0.5625 - 14 - 55), abs=9)
    (found,) = history.predicted_and_actual(subject())
    assert found.actual.overhead_bytes == gib(1), "what is shown is what was there"


def test_a_cache_kept_small_by_the_user_teaches_no_wild_figure(history: MemoryHistory) -> None:
    started(history, subject(), Figures(gib(14), gib(2), gib(3)))
    assert history.learned(subject()).overhead_bytes == gib(8)


def test_beside_others_the_peak_was_not_measured_so_the_formula_stays_a_floor(history: MemoryHistory) -> None:
    decision = decided(world([gpu()], up("other", 40)), need(overhead=4))
    assert decision.budget_bytes == 0
    object.__setattr__(decision.need, "formula_overhead_bytes", gib(4))
    history.record_start(subject(), decision, Figures(gib(14), gib(7), gib(1)))
    assert history.learned(subject()).overhead_bytes == pytest.approx(gib(3.2), abs=2)


def test_other_flags_of_the_model_keep_what_they_do_not_change(history: MemoryHistory) -> None:
    started(history, subject(dtype="a", seed="1"), took(14, 3))
    started(history, subject(dtype="a", seed="2"), took(14, 4))
    seed = history.learned(subject(dtype="a", seed="3"))
    assert (seed.weights_bytes, seed.overhead_bytes, seed.is_same) == (gib(14), gib(4), False)
    batch = history.learned(subject(dtype="a", **{"max-num-seqs": "x"}))
    assert (batch.weights_bytes, batch.overhead_bytes) == (gib(14), None)
    other = history.learned(subject(dtype="b"))
    assert (other.weights_bytes, other.overhead_bytes) == (None, None)


def test_other_models_learn_how_far_the_formula_is_off(history: MemoryHistory, tmp_path: Path) -> None:
    started(history, subject("small"), took(1, 2), formula=4)
    started(history, subject("large"), took(1, 3.6), formula=4)
    learned = history.learned(subject("new"))
    assert learned.overhead_factor == pytest.approx(0.9), "the one of which it was most wrong to the bad side"
    assert history.learned(subject("new", device="1 x A100")).overhead_factor is None
    shape = QWEN2_05B.shape(tmp_path / "model")
    (plain,) = memory_needs(shape, ChosenFlags(), (gpu(),))
    (with_it,) = memory_needs(shape, ChosenFlags(), (gpu(),), lambda tp: learned)
    assert with_it.overhead_bytes == pytest.approx(plain.overhead_bytes * 0.9)
    assert with_it.basis is NeedBasis.COMPUTED


def test_a_wild_measurement_does_not_spoil_the_rest(history: MemoryHistory) -> None:
    started(history, subject("wild"), took(1, 70), formula=4)
    assert history.learned(subject("new")).overhead_factor == 2.0


def test_predicted_and_actual_stand_side_by_side(history: MemoryHistory) -> None:
    started(history, subject())
    (found,) = history.predicted_and_actual(subject())
    assert found.actual.total_bytes == REAL.total_bytes
    assert found.predicted is not None
    assert found.predicted.weights_bytes == gib(14.2)
    assert found.predicted.total_bytes == pytest.approx(gib(73.5), rel=0.01)
    assert found.formula_overhead_bytes == gib(4)


def test_unknown_size_is_compared_with_nothing(history: MemoryHistory) -> None:
    decision = decided(world([gpu()]), need(None))
    assert predicted_figures(decision) is None
    history.record_start(subject(), decision, REAL)
    (found,) = history.predicted_and_actual(subject())
    assert (found.predicted, found.actual) == (None, REAL)


def test_medians_by_subject_then_by_model(history: MemoryHistory) -> None:
    for seconds in (0.4, 9.0, 0.5):
        history.record(subject(seed="1"), Measure.WAKE_S, seconds)
    assert history.typical(subject(seed="1"), Measure.WAKE_S) == 0.5
    assert history.typical(subject(seed="2"), Measure.WAKE_S) == 0.5
    assert history.typical(subject("other"), Measure.WAKE_S) is None
    assert history.typical(subject(seed="1"), Measure.RESIDUE_BYTES) is None


def test_another_gpu_tells_nothing(history: MemoryHistory) -> None:
    history.record(subject(), Measure.WAKE_S, 0.4)
    assert history.typical(subject(device="1 x A100"), Measure.WAKE_S) is None


def test_a_sleep_alone_tells_nothing_of_a_start(history: MemoryHistory) -> None:
    started(history, subject(seed="1"), took(14, 3))
    history.record(subject(seed="2"), Measure.WAKE_S, 0.4)
    assert history.learned(subject(seed="2")).weights_bytes == gib(14)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_no_amount_is_not_noted(history: MemoryHistory, value: float) -> None:
    history.record(subject(), Measure.WAKE_S, 0.4)
    history.record(subject(), Measure.WAKE_S, value)
    assert history.typical(subject(), Measure.WAKE_S) == 0.4


def test_residue_is_estimated_until_it_was_measured(history: MemoryHistory) -> None:
    assert history.residue_bytes(subject(), gib(3)) == gib(2)
    history.record(subject(), Measure.RESIDUE_BYTES, gib(1.9))
    assert history.residue_bytes(subject(), gib(3)) == gib(1.9)


def test_the_file_does_not_grow_for_ever(history: MemoryHistory, tmp_path: Path) -> None:
    entry = {"device": "d", "features": {}, "starts": [], "measures": {"wake_s": [1.0] * 9}}
    path = tmp_path / "memory-history.json"
    path.write_text(json.dumps({"models": [{"model": f"m{n}", **entry} for n in range(MAX_SUBJECTS + 5)]}))
    history.record(subject(), Measure.WAKE_S, 1.0)
    found = json.loads(path.read_text())["models"]
    assert len(found) == MAX_SUBJECTS
    assert found[-1]["model"] == "org/name"
    assert len(found[0]["measures"]["wake_s"]) == MAX_RUNS
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"models": 3}', '{"models": [3, null, {}]}', "\x00" * 40, '{"models": ' + "[" * 20000,
     '{"models": [{"model": "m", "device": "d", "features": {}, "starts": [{"at": 1}], "measures": {}}]}',
     '{"models": [{"model": "m", "device": "d", "features": {}, "starts": [], "measures": {"wake_s": ["x"]}}]}',
     '{"models": [{"model": "m", "device": "d", "features": {}, "starts": [], "measures": {"wake_s": [1e999]}}]}'],
)  # fmt: skip
def test_a_broken_file_costs_the_estimate_only(history: MemoryHistory, tmp_path: Path, content: str) -> None:
    path = tmp_path / "memory-history.json"
    path.write_text(content)
    assert history.learned(subject()) == Learned()
    history.record(subject(), Measure.WAKE_S, 0.4)
    assert history.typical(subject(), Measure.WAKE_S) == 0.4


def test_a_newer_version_s_measures_are_passed_over(history: MemoryHistory, tmp_path: Path) -> None:
    entry: dict[str, Any] = {"model": "org/name", "device": "1 x H100", "features": {}, "starts": []}
    entry["measures"] = {"wake_s": [0.3], "from_the_future": [1, 2]}
    (tmp_path / "memory-history.json").write_text(json.dumps({"version": 2, "models": [entry]}))
    assert history.typical(subject(), Measure.WAKE_S) == 0.3


def test_a_full_disk_costs_the_record_only(tmp_path: Path) -> None:
    nowhere = MemoryHistory(tmp_path / "missing" / "memory-history.json")
    nowhere.record(subject(), Measure.WAKE_S, 0.4)
    assert nowhere.typical(subject(), Measure.WAKE_S) is None


def test_records_at_the_same_time_are_all_kept(history: MemoryHistory) -> None:
    names = [f"m{number}" for number in range(8)]
    threads = [threading.Thread(target=history.record, args=(subject(name), Measure.WAKE_S, 1.0)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(history.typical(subject(name), Measure.WAKE_S) == 1.0 for name in names)


# Subjects and figures


def test_what_the_planner_sets_itself_makes_no_other_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(options: dict[str, object], env: dict[str, str] | None = None, tp: int = 1) -> StartSubject:
        return memory_subject("m", options, env or {}, gpu_name="H100", tensor_parallel_size=tp, vllm_python="none")

    plain = of({"dtype": "half"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    planned = {"gpu-memory-utilization": 0.4, "kv-cache-memory-bytes": 5, "device-ids": "1", "tensor-parallel-size": 1}
    assert of({"dtype": "half", **planned}, {"CUDA_VISIBLE_DEVICES": "GPU-1"}) == plain
    assert plain.device == "1 x H100"
    assert of({"dtype": "half"}, tp=2) != plain
    assert of({"dtype": "half", "tensor-parallel-size": 2}, tp=2) == of({"dtype": "half"}, tp=2)
    assert of({"dtype": "float"}) != plain


def test_figures_of_a_real_start() -> None:
    reader = MemoryReader()
    reader.take((LOGS / "ok_gpu_cold_0.25.1.log").read_text().splitlines())
    found = actual_figures(reader.parts, {"GPU-0": gib(24.44)})
    assert found is not None
    assert (found.weights_bytes, found.kv_cache_bytes) == (gib(0.93), gib(21.68))
    assert found.total_bytes == gib(24.44)


def test_figures_of_the_fullest_of_several_gpus() -> None:
    ranks = (RankMemory(1, gib(7), gib(20)), RankMemory(2, gib(7.1), None))
    found = actual_figures(MemoryParts(ranks, world_size=2), {"GPU-0": gib(30), "GPU-1": gib(31)})
    assert found == Figures(gib(7.1), gib(20), gib(31) - gib(7.1) - gib(20))


@pytest.mark.parametrize(
    ("parts", "held"),
    [
        (None, {"GPU-0": GIB}),
        (MemoryParts(), {"GPU-0": GIB}),
        (MemoryParts((RankMemory(1, GIB, GIB),)), {}),
        (MemoryParts((RankMemory(1, GIB, GIB),)), {"GPU-0": GIB}),
    ],
)
def test_no_figures_where_somebody_has_not_told(parts: MemoryParts | None, held: dict[str, int]) -> None:
    assert actual_figures(parts, held) is None


# What a pick costs


def test_cost_of_each_state(history: MemoryHistory) -> None:
    which = subject()

    def cost(state: ServerState, **more: Any) -> SwitchCost:
        return switch_cost(state, subject=which, history=history, **more)

    assert cost(ServerState.READY) == SwitchCost(CostKind.READY, 0.0)
    assert cost(ServerState.ASLEEP) == SwitchCost(CostKind.ASLEEP, None)
    history.record(which, Measure.WAKE_S, 0.4)
    assert cost(ServerState.ASLEEP) == SwitchCost(CostKind.ASLEEP, 0.4)
    history.record(which, Measure.FIRST_TOKEN_S, 0.5)
    assert cost(ServerState.ASLEEP, making_room_s=0.25) == SwitchCost(CostKind.ASLEEP, 0.75)
    assert cost(ServerState.ASLEEP, sleep_level=2) == SwitchCost(CostKind.ASLEEP, None)
    assert cost(ServerState.STARTING, start_left_s=12) == SwitchCost(CostKind.STARTING, 12)
    assert cost(ServerState.STOPPED) == SwitchCost(CostKind.COLD, None)
    history.record(which, Measure.COLD_START_S, 81)
    assert cost(ServerState.STOPPED) == SwitchCost(CostKind.COLD, 81)
    assert cost(ServerState.FAILED, cold_start_s=70, making_room_s=None) == SwitchCost(CostKind.COLD, None)
    download = cost(ServerState.STOPPED, needs_download=True, missing_bytes=5 * GIB)
    assert download == SwitchCost(CostKind.DOWNLOAD, 81, 5 * GIB)


def test_time_to_make_room(history: MemoryHistory) -> None:
    history.record(subject("a"), Measure.LATER_SLEEP_S, 0.3)
    history.record(subject("a"), Measure.WAKE_S, 9.0)
    history.record(subject("b"), Measure.WAKE_S, 0.4)
    history.record(subject("b"), Measure.STOP_S, 5.0)
    subjects = {name: subject(name) for name in "abc"}

    def takes(*actions: Action, **more: float) -> float | None:
        return room_seconds(actions, subjects, history, **more)

    assert takes() == 0.0
    assert takes(Sleep("a", 1, GIB), Stop("b", GIB)) == pytest.approx(5.3)
    assert takes(Sleep("b", 1, GIB)) == pytest.approx(0.4), "about as long as its wake"
    assert takes(Sleep("a", 1, GIB), Sleep("c", 1, GIB)) is None, "never measured"
    assert takes(Sleep("a", 1, GIB), Stop("unknown", GIB), unmeasured=0.0) == pytest.approx(0.3)
    assert takes(WaitFor("a", WaitReason.IN_USE), unmeasured=0.0) is None
