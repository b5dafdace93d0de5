"""The whole way: from a model's folder and flags to a decision, and from its start to a better one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from plan_shapes import QWEN2_7B
from plan_worlds import GIB, gib, gpu, up, world

from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.history import MemoryHistory
from server_manager.memory_plan.measured import Figures
from server_manager.memory_plan.need import NeedBasis
from server_manager.memory_plan.planner import decide_start
from server_manager.memory_plan.start_request import Launching, start_request, subject_of
from server_manager.memory_plan.world import World


@pytest.fixture
def launching(tmp_path: Path) -> Launching:
    return Launching("qwen", str(QWEN2_7B.put(tmp_path / "model")), {"max-model-len": 8192}, {}, "none")


@pytest.fixture
def history(tmp_path: Path) -> MemoryHistory:
    return MemoryHistory(tmp_path / "memory-history.json")


def decide(launching: Launching, where: World, history: MemoryHistory, **inherited: str) -> Decision:
    request = start_request(launching, where, history, can_sleep=True, inherited=inherited)
    found = decide_start(request, where)
    assert isinstance(found, Decision)
    return found


def test_second_start_rests_on_the_first(launching: Launching, history: MemoryHistory) -> None:
    where = world([gpu()])
    first = decide(launching, where, history)
    assert first.need is not None
    assert first.need.basis is NeedBasis.COMPUTED
    assert first.need.weights_bytes == 15_231_233_024
    history.record_start(
        subject_of(launching, where, first), first, Figures(gib(14.29), gib(55.62), gib(73.53 - 14.29 - 55.62))
    )
    second = decide(launching, world([gpu()], up("other", 40)), history)
    assert second.need is not None
    assert second.need.basis is NeedBasis.MEASURED
    assert second.need.weights_bytes == gib(14.29)
    other = replace(launching, options={"max-model-len": 4096})
    similar = decide(other, where, history)
    assert similar.need is not None
    assert (similar.need.basis, similar.need.weights_bytes) == (NeedBasis.COMPUTED, gib(14.29))


def test_flags_of_the_decision_do_not_make_it_another_subject(launching: Launching, history: MemoryHistory) -> None:
    where = world([gpu()], up("other", 40))
    decision = decide(launching, where, history)
    assert decision.options_to_add
    planned = replace(launching, options={**launching.options, **decision.options_to_add})
    assert subject_of(planned, where, decision) == subject_of(launching, where, decision)


def test_places_come_from_flags_and_environment(launching: Launching, history: MemoryHistory) -> None:
    where = world([gpu(0), gpu(1), gpu(2)], up("other", 40, on=1))
    assert decide(launching, where, history, CUDA_VISIBLE_DEVICES="1,2").device_uuids == ("GPU-2",)
    own = replace(launching, env={"CUDA_VISIBLE_DEVICES": "1"})
    assert decide(own, where, history).device_uuids == ("GPU-1",)
    unclear = replace(launching, env={"CUDA_VISIBLE_DEVICES": "MIG-1"})
    assert decide(unclear, where, history).words == "Where qwen goes is left to vLLM."


def test_model_that_is_not_here_is_planned_by_its_size_on_the_hub(history: MemoryHistory, tmp_path: Path) -> None:
    env = {"HF_HUB_CACHE": str(tmp_path), "MODELSCOPE_CACHE": str(tmp_path)}
    launching = Launching("m", "org/name", {}, env, "none")
    request = start_request(
        launching, world([gpu()]), history, can_sleep=False, inherited={}, hub_size=lambda model: 5 * GIB
    )
    (need,) = request.needs
    assert (need.weights_bytes, need.kv_least_bytes, need.basis) == (5 * GIB, None, NeedBasis.UNKNOWN)
    assert decide(launching, world([gpu()]), history).need is not None
