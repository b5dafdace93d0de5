"""What the planner decides on machines that people have."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from plan_shapes import QWEN2_05B, QWEN2_7B, QWEN2_15B, QWEN2_VL_7B, QWEN3_30B_A3B, RealModel
from plan_worlds import GIB, answer, decided, gib, gpu, need, refused, up, world

from server_manager.memory_plan.chosen import ChosenFlags, chosen_flags
from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.history import predicted_figures
from server_manager.memory_plan.need import MemoryNeed, NeedBasis, estimated_overhead, memory_needs
from server_manager.memory_plan.planner import StartRequest, decide_start, decide_wake
from server_manager.memory_plan.release import Sleep, Stop, WaitFor, WaitReason
from server_manager.memory_plan.world import Device, Policy, UpServer, devices_of, held_by_server, host_device
from server_manager.server_state import ServerState
from server_manager.telemetry.base import DeviceSnapshot, HostSnapshot
from server_manager.telemetry.ledger import MemoryLedger, Owner, OwnerKind

ASLEEP, STARTING, STOPPING = ServerState.ASLEEP, ServerState.STARTING, ServerState.STOPPING


# How much


def test_alone_it_gets_what_vllm_would_take_by_itself() -> None:
    found = decided(world([gpu()]), need())
    assert (found.actions, found.options_to_add, found.env_to_add) == ((), {}, {})
    assert found.words == "new has GPU 0 to itself: it needs at least 19.5 GiB of the 79.2 GiB free on GPU 0."


def test_what_sleepers_keep_is_not_promised_again() -> None:
    """With four asleep vLLM's default of 0.92 would fail its own check."""
    sleepers = [up(f"s{n}", 1.95, state=ASLEEP, used=n) for n in range(4)]
    found = decided(world([gpu()], *sleepers), need())
    share = found.options_to_add["gpu-memory-utilization"]
    assert isinstance(share, float)
    assert math.ceil(share * gib(79.18)) <= gib(79.18 - 4 * 1.95 - 0.52), "vLLM's check, after its CUDA context"
    assert found.actions == ()


def test_small_gpu_keeps_room_for_sleepers_so_that_one_can_switch_back() -> None:
    """On 24 GiB with vLLM's 0.92 each, the first one could never wake beside the second one asleep."""
    small = need(3, kv=0.2, overhead=2)
    first = decided(world([gpu(total=24)]), small, name="first")
    held = first.will_hold["GPU-0"]
    assert held <= gib(24 - 4), "two sleepers of 2 GiB"
    asleep = up("first", 2, state=ASLEEP, will_hold=held / GIB)
    second = decided(world([gpu(total=24)], asleep), small, name="second")
    assert second.actions == ()
    both = world([gpu(total=24)], asleep, up("second", second.will_hold["GPU-0"] / GIB, used=5))
    back = decide_wake("first", both)
    assert isinstance(back, Decision)
    assert [type(action) for action in back.actions] == [Sleep]


def test_room_for_sleepers_is_not_taken_from_the_model_itself() -> None:
    large = need(18, kv=0.5, wished=1, overhead=2.5)
    found = decided(world([gpu(total=24)]), large)
    assert found.will_hold["GPU-0"] >= gib(18 + 1 + 2.5)


def test_without_sleep_no_room_is_kept() -> None:
    found = decided(world([gpu(total=24)]), need(3, kv=0.2, overhead=2), can_sleep=False)
    assert found.options_to_add == {}


def test_model_that_needs_more_than_the_usual_share_gets_it() -> None:
    """0.92 of 24 GiB would leave a cache too small for one request, and vLLM would refuse to start."""
    tight = need(19, kv=1.5, overhead=2.6)
    found = decided(world([gpu(total=24)]), tight)
    share = found.options_to_add["gpu-memory-utilization"]
    assert isinstance(share, float)
    cache = share * gib(24) - gib(19) - (tight.overhead_bytes - tight.context_bytes)
    assert cache >= gib(1.5)
    assert math.ceil(share * gib(24)) <= gib(24) - tight.context_bytes


def test_beside_a_server_that_is_awake_the_cache_has_a_fixed_size() -> None:
    where = world([gpu()], up("other", 40))
    found = decided(where, need(), options={})
    assert found.options_to_add["kv-cache-memory-bytes"] == gib(7)
    share = found.options_to_add["gpu-memory-utilization"]
    assert isinstance(share, float)
    assert math.ceil(share * gib(79.18)) <= gib(39.18 - 0.52), "vLLM checks it although it is told the cache's size"
    assert found.words == "new fits beside other: it needs at least 19.5 GiB of the 39.2 GiB free on GPU 0."


def test_other_peoples_large_process_counts_as_a_neighbour() -> None:
    found = decided(world([gpu(free=40)]), need())
    assert "kv-cache-memory-bytes" in found.options_to_add
    assert "kv-cache-memory-bytes" not in decided(world([gpu(free=78.5)]), need()).options_to_add


# Who makes room


def test_the_one_not_used_for_longest_sleeps() -> None:
    where = world([gpu()], up("old", 30, used=1), up("young", 45, used=2))
    found = decided(where, need())
    assert found.actions == (Sleep("old", 1, gib(28)),)
    expected = "old is put to sleep for new: it needs at least 19.5 GiB, and 4.2 GiB are free on GPU 0."
    assert found.words == expected


def test_nobody_sleeps_in_vain() -> None:
    """The older one alone would not be enough, and with the younger one it is not needed."""
    where = world([gpu()], up("old", 5, used=1), up("young", 70, used=2))
    assert decided(where, need()).actions == (Sleep("young", 1, gib(68)),)


def test_level_1_while_the_machines_memory_lasts_then_level_2() -> None:
    where = world([gpu()], up("a", 35, used=1, host=14), up("b", 40, used=2, host=14), host=20)
    found = decided(where, need(50))
    assert found.actions == (Sleep("a", 1, gib(33)), Sleep("b", 2, gib(38)))


def test_unknown_machine_memory_means_level_2() -> None:
    assert decided(world([gpu()], up("a", 70), host=None), need()).sleeps[0].level == 2


def test_stopped_where_it_can_sleep_at_level_1_only_and_memory_is_short() -> None:
    where = world([gpu()], up("a", 70, levels=(1,), host=14), host=10)
    assert decided(where, need()).actions == (Stop("a", gib(70)),)


def test_stopped_where_there_is_no_sleep() -> None:
    assert decided(world([gpu()], up("a", 70, levels=())), need()).actions == (Stop("a", gib(70)),)


def test_stopped_where_it_would_keep_too_much_asleep() -> None:
    where = world([gpu(total=24)], up("a", 22, residue=3))
    assert decided(where, need(19, overhead=2)).actions == (Stop("a", gib(22)),)


def test_stop_of_one_spares_the_other_its_own() -> None:
    """Stopping the older one is tried first and is not enough; once the younger is stopped a sleep of it is."""
    where = world([gpu(total=24)], up("old", 5, residue=2, used=1), up("young", 19, residue=4, used=2))
    found = decided(where, need(16, kv=1, overhead=3.75))
    assert found.actions == (Sleep("old", 1, gib(3)), Stop("young", gib(19)))


def test_old_sleeper_is_stopped_before_others_lose_more() -> None:
    where = world(
        [gpu(total=24)], up("old", 2.5, state=ASLEEP, used=1), up("b", 2.5, state=ASLEEP, used=2), up("c", 18, used=3)
    )
    found = decided(where, need(14, kv=1, overhead=3))
    assert found.actions == (Sleep("c", 1, gib(16)), Stop("old", gib(2.5)))


def test_memory_of_a_server_that_ends_is_waited_for_and_nobody_else_disturbed() -> None:
    where = world([gpu()], up("ending", 40, state=STOPPING), up("idle", 30))
    found = decided(where, need())
    assert found.actions == (WaitFor("ending", WaitReason.ENDING),)
    assert found.words.startswith("new waits for ending, whose memory is coming free: ")


def test_one_that_is_falling_asleep_is_waited_for_and_counts_with_what_it_gives_back() -> None:
    falling = replace(up("falling", 70, state=ASLEEP), is_falling_asleep=True)
    found = decided(world([gpu()], falling, up("idle", 6)), need())
    assert found.actions == (WaitFor("falling", WaitReason.ENDING),)


def test_one_that_wakes_is_waited_for_and_has_its_memory_already() -> None:
    waking = up("waking", 2, state=ASLEEP, will_hold=60, is_waking=True, may_be_freed=False)
    found = decided(world([gpu()], waking), need(12, kv=1, overhead=3))
    assert found.actions == (WaitFor("waking", WaitReason.STARTING),)
    assert refused(world([gpu()], waking), need()).facts["promised_bytes"] == gib(58)


@pytest.mark.parametrize(("host", "expected"), [(20, True), (16, True), (15, False), (None, False)])
def test_machine_has_room_for_a_sleeper(host: float | None, expected: bool) -> None:
    assert world([gpu()], host=host).host_has_room(gib(14), Policy()) is expected


def test_two_starts_on_one_gpu_follow_each_other() -> None:
    starting = up("first", 1, state=STARTING, will_hold=20)
    found = decided(world([gpu()], starting), need())
    assert found.actions == (WaitFor("first", WaitReason.STARTING),)
    assert decided(world([gpu(0), gpu(1)], starting), need()).device_uuids == ("GPU-1",), "another GPU is free"


def test_what_a_start_will_still_take_is_not_given_away() -> None:
    starting = up("first", 1, state=STARTING, will_hold=70, may_be_freed=False)
    assert refused(world([gpu()], starting), need()).facts["promised_bytes"] == gib(69)


def test_a_start_of_which_nothing_is_known_yet_is_waited_for() -> None:
    starting = UpServer("first", STARTING)
    assert decided(world([gpu()], starting), need()).waits


def test_those_in_use_are_waited_for_and_nobody_sleeps_meanwhile() -> None:
    where = world([gpu()], up("busy", 60, in_use=True), up("idle", 10))
    found = decided(where, need(30))
    assert found.actions == (WaitFor("busy", WaitReason.IN_USE),)


def test_nobody_sleeps_for_a_start_that_has_to_wait_anyhow() -> None:
    where = world([gpu()], up("busy", 40, in_use=True), up("idle", 30))
    assert decided(where, need(60)).actions == (WaitFor("busy", WaitReason.IN_USE),)


def test_split_rather_than_wait_for_somebody_in_use() -> None:
    busy = [up(f"busy{index}", 40, on=index, in_use=True) for index in range(2)]
    found = decided(world([gpu(0), gpu(1)], *busy), need(50), need(25, gpus=2))
    assert (found.actions, found.options_to_add["tensor-parallel-size"]) == ((), 2)


def test_idle_one_sleeps_before_anyone_waits() -> None:
    where = world([gpu()], up("busy", 30, used=1, in_use=True), up("idle", 40, used=2))
    assert decided(where, need()).actions == (Sleep("idle", 1, gib(38)),)


# Where


def test_the_gpu_with_most_room_by_its_uuid() -> None:
    where = world([gpu(0), gpu(1), gpu(2)], up("a", 30, on=0), up("b", 10, on=1), up("c", 50, on=2))
    found = decided(where, need())
    assert (found.device_uuids, found.env_to_add) == (("GPU-1",), {"CUDA_VISIBLE_DEVICES": "GPU-1"})


def test_no_split_without_need() -> None:
    where = world([gpu(0), gpu(1)], up("a", 70, on=0, used=2), up("b", 75, on=1, used=1))
    found = decided(where, need(), need(7.1, gpus=2))
    assert found.need is not None
    assert found.need.gpu_count == 1
    assert found.actions == (Sleep("a", 1, gib(68)),), "most is free there"


def test_split_over_the_fewest_that_hold_it() -> None:
    where = world([gpu(index, total=24) for index in range(4)], up("a", 5, on=1))
    found = decided(where, *(need(60 / gpus, kv=4 / gpus, gpus=gpus) for gpus in (1, 2, 4)))
    assert found.options_to_add["tensor-parallel-size"] == 4
    assert len(found.device_uuids) == 4
    wide = world([gpu(index, total=48) for index in range(4)], up("a", 5, on=1))
    found = decided(wide, *(need(60 / gpus, kv=4 / gpus, gpus=gpus) for gpus in (1, 2, 4)))
    assert found.device_uuids == ("GPU-0", "GPU-2")
    assert found.env_to_add == {"CUDA_VISIBLE_DEVICES": "GPU-0,GPU-2"}


def test_gpu_that_gives_no_figures_is_not_used_and_not_counted() -> None:
    broken = DeviceSnapshot(0, "GPU-broken", "H100", error="lost")
    good = DeviceSnapshot(1, "GPU-1", "H100", 80 * GIB, 0, 79 * GIB, GIB // 2)
    devices = devices_of([broken, good])
    assert [(each.key, each.total_bytes) for each in devices] == [("GPU-1", 80 * GIB - GIB // 2)]
    assert decided(world(devices), need()).env_to_add == {"CUDA_VISIBLE_DEVICES": "GPU-1"}, "or vLLM takes GPU 0"


# What the user wrote


def test_flags_of_the_user_are_never_changed() -> None:
    options = {"gpu-memory-utilization": 0.5, "kv-cache-memory-bytes": "4G", "tensor-parallel-size": 1}
    assert decided(world([gpu()], up("a", 30)), need(kv=4), options=options).options_to_add == {}


def test_utilization_of_the_user_decides_what_must_be_free() -> None:
    where = world([gpu()], up("a", 30))
    assert decided(where, need(), options={"gpu-memory-utilization": 0.5}).actions == ()
    assert decided(where, need(), options={"gpu-memory-utilization": 0.7}).actions == (Sleep("a", 1, gib(28)),)
    assert decided(where, need(), options={"gpu-memory-utilization": 0.5}).will_hold["GPU-0"] >= gib(0.5 * 79.18)


def test_an_empty_gpu_is_never_too_small_for_what_the_user_wrote() -> None:
    assert decided(world([gpu(total=24)]), need(), options={"gpu-memory-utilization": 0.99}).options_to_add == {}
    assert decided(world([gpu(total=8)]), need(), options={"gpu-memory-utilization": 0.9}).actions == ()


def test_cache_of_the_user_gets_a_utilization_that_passes_the_check() -> None:
    found = decided(world([gpu()], up("a", 40)), need(kv=2), options={"kv-cache-memory-bytes": "2G"})
    assert set(found.options_to_add) == {"gpu-memory-utilization"}
    assert decided(world([gpu()]), need(kv=2), options={"kv-cache-memory-bytes": "2G"}).options_to_add == {}


def test_devices_of_the_user_are_taken_in_their_order() -> None:
    where = world([gpu(0), gpu(1)], up("a", 70, on=1))
    found = decided(where, need(), fixed=(1, 0))
    assert (found.device_uuids, found.env_to_add, found.actions) == (("GPU-1",), {}, (Sleep("a", 1, gib(68)),))


def test_what_cannot_be_told_is_left_to_vllm() -> None:
    where = world([gpu()])
    found = decide_start(StartRequest("new", (need(),), ChosenFlags(), None), where)
    assert isinstance(found, Decision)
    assert (found.actions, found.device_keys, found.options_to_add) == ((), (), {})
    assert decided(where, need(gpus=2)).words == "Where new goes is left to vLLM.", "too few GPUs: vLLM says it better"


# When it is not sure, or not possible


def test_unknown_size_gets_the_emptiest_gpu_with_idle_servers_put_away() -> None:
    where = world([gpu(0), gpu(1)], up("a", 30, on=0), up("b", 10, on=1))
    found = decided(where, need(None))
    assert (found.device_uuids, found.actions) == (("GPU-1",), (Sleep("b", 1, gib(8)),))
    assert found.words == "b is put to sleep for new: its size is not known, and 69.2 GiB are free on GPU 1."


def test_unknown_size_takes_what_other_people_leave() -> None:
    found = decided(world([gpu(free=30)], up("a", 10)), need(None))
    assert found.actions == (Stop("a", gib(10)),)
    share = found.options_to_add["gpu-memory-utilization"]
    assert isinstance(share, float)
    assert 0 < share * 79.18 <= 30
    assert found.is_doubtful


def test_what_just_does_not_fit_by_the_formula_is_tried_alone_until_it_was_measured() -> None:
    where = world([gpu(total=16)], up("a", 5))
    near = need(13, kv=0.5, overhead=3.5, basis=NeedBasis.COMPUTED)
    found = decided(where, near)
    assert (found.is_doubtful, found.actions) == (True, (Stop("a", gib(5)),))
    assert decided(world([gpu(total=16)]), near).words.startswith("new may turn out too large: ")
    assert refused(where, need(13, kv=0.5, overhead=3.5)).facts["basis"] == "measured"


def test_doubt_is_no_reason_to_touch_who_may_not_be_freed() -> None:
    where = world([gpu(total=24)], up("kept", 5, may_be_freed=False))
    found = decided(where, need(13, kv=0.5, overhead=6, basis=NeedBasis.COMPUTED))
    assert (found.is_doubtful, found.actions) == (True, ())


def test_refusal_has_all_numbers_and_they_add_up() -> None:
    where = world([gpu(total=24, free=20)], up("a", 5), up("kept", 4, may_be_freed=False))
    error = refused(where, need())
    facts = error.facts
    assert facts["requested_bytes"] == need().least_bytes + Policy().spare_bytes  # type: ignore[operator]
    assert facts["kept"] == {"kept": gib(4), "other processes": gib(4)}
    assert facts["free_bytes"] + facts["freeable_bytes"] + gib(8) == facts["total_bytes"]  # type: ignore[operator]
    assert error.message == (
        "new needs 19.8 GiB of GPU 0 (weights 14.2 GiB, cache for one request 1.8 GiB, all else 3.6 GiB, "
        "to spare 0.2 GiB); 11.0 GiB of 24.0 GiB are free and 5.0 GiB could be freed. "
        "The rest is held by kept (4.0 GiB) and other processes (4.0 GiB)."
    )
    assert error.next_step


def test_refusal_of_a_model_too_large_for_all_gpus_together() -> None:
    error = refused(world([gpu(0, total=24), gpu(1, total=24)]), need(140), need(70, gpus=2))
    assert "and as much of each of 2 GPUs" in error.message
    assert error.facts["gpu_count"] == 2


# Waking


def test_wake_needs_what_it_gave_back() -> None:
    asleep = up("sleeper", 2, state=ASLEEP, will_hold=73.5)
    assert decide_wake("sleeper", world([gpu()], asleep)) == Decision(
        device_keys=("GPU-0",),
        device_uuids=("GPU-0",),
        will_hold={"GPU-0": gib(73.5)},
        words="sleeper can wake: it takes back 71.5 GiB of the 77.2 GiB free on GPU 0.",
    )
    crowded = decide_wake("sleeper", world([gpu()], asleep, up("other", 60), up("third", 2, state=ASLEEP)))
    assert isinstance(crowded, Decision)
    assert crowded.actions == (Sleep("other", 1, gib(58)),)


def test_wake_leaves_something_to_spare() -> None:
    asleep, other = up("sleeper", 2, state=ASLEEP, will_hold=70), up("other", 9.1)
    assert isinstance(found := decide_wake("sleeper", world([gpu()], asleep, other)), Decision)
    assert found.actions == (Sleep("other", 1, gib(9.1) - gib(2)),)


def test_wake_that_others_keep_from_happening_is_refused() -> None:
    asleep = up("sleeper", 2, state=ASLEEP, will_hold=73.5)
    error = decide_wake("sleeper", world([gpu()], asleep, up("kept", 20, may_be_freed=False)))
    assert not isinstance(error, Decision)
    assert error.facts["requested_bytes"] == gib(71.5) + Policy().spare_bytes
    assert "start it anew" in error.next_step


def test_wake_waits_for_a_start_on_the_same_gpu_and_for_those_in_use() -> None:
    asleep = up("sleeper", 2, state=ASLEEP, will_hold=40)
    starting = up("first", 1, state=STARTING, will_hold=20)
    found = decide_wake("sleeper", world([gpu()], asleep, starting))
    assert isinstance(found, Decision)
    assert found.actions == (WaitFor("first", WaitReason.STARTING),)
    found = decide_wake("sleeper", world([gpu()], asleep, up("busy", 60, in_use=True)))
    assert isinstance(found, Decision)
    assert found.actions == (WaitFor("busy", WaitReason.IN_USE),)


def test_wake_of_which_nothing_is_known_is_let_through() -> None:
    found = decide_wake("sleeper", world([gpu()], up("sleeper", 2, state=ASLEEP)))
    assert isinstance(found, Decision)
    assert (found.actions, found.device_keys) == ((), ())


# From a real model's files


H100 = (Device("GPU-0", 0, gib(79.18), gib(79.18), "NVIDIA H100 80GB HBM3"),)


def needs_of(tmp_path: Path, model: RealModel, options: dict[str, object], devices: tuple[Device, ...] = H100):  # type: ignore[no-untyped-def]
    return memory_needs(model.shape(tmp_path), chosen_flags(options), devices)


@pytest.mark.parametrize(
    ("model", "measured_gib"),
    [(QWEN2_7B, 3.61), (QWEN2_05B, 1.83)],
)
def test_formula_for_the_rest_errs_on_the_safe_side(tmp_path: Path, model: RealModel, measured_gib: float) -> None:
    """Measured on an H100 beside weights and cache: 3.61 GiB; of the 0.5B 1.14 in its share, and 0.69 out of it."""
    found = estimated_overhead(model.shape(tmp_path), ChosenFlags(), H100) / GIB
    assert measured_gib < found < measured_gib + 2


def test_three_models_of_an_h100(tmp_path: Path) -> None:
    """Those that the figures on switching are made with: all of them are one GPU's, each with room to spare."""
    for model in (QWEN2_05B, QWEN2_15B, QWEN2_7B):
        (found,) = needs_of(tmp_path, model, {"max-model-len": 4096})
        assert (found.basis, found.gpu_count) == (NeedBasis.COMPUTED, 1)
        assert decided(world(H100), found).options_to_add == {}
        assert (found.least_bytes or 0) < gib(20)


def test_prediction_of_a_real_start(tmp_path: Path) -> None:
    """The 7B held 73.53 GiB of an H100, of them 55.62 of cache."""
    (found,) = needs_of(tmp_path, QWEN2_7B, {})
    decision = decided(world(H100), found)
    predicted = predicted_figures(decision)
    assert predicted is not None
    assert predicted.total_bytes / GIB == pytest.approx(73.53, abs=0.1)
    assert predicted.kv_cache_bytes / GIB == pytest.approx(55.62, abs=1)


def test_moe_of_61_gb_on_24_gib_gpus_is_split_in_four(tmp_path: Path) -> None:
    gpus = tuple(gpu(index, total=23.6, name="RTX 4090") for index in range(8))
    ways = needs_of(tmp_path, QWEN3_30B_A3B, {"max-model-len": 32768}, gpus)
    assert [way.gpu_count for way in ways] == [1, 2, 4, 8]
    found = decided(world(gpus), *ways)
    assert found.options_to_add["tensor-parallel-size"] == 4


def test_flags_fix_how_it_is_split(tmp_path: Path) -> None:
    gpus = tuple(gpu(index) for index in range(4))
    (found,) = needs_of(tmp_path, QWEN2_7B, {"tensor-parallel-size": 2, "pipeline-parallel-size": 2}, gpus)
    assert (found.gpu_count, found.tensor_parallel_size) == (4, 2)
    assert [way.gpu_count for way in needs_of(tmp_path, QWEN2_7B, {"data-parallel-size": 2}, gpus)] == [2, 4]


def test_images_cost_extra(tmp_path: Path) -> None:
    plain, seeing = (needs_of(tmp_path / name, model, {})[0] for name, model in (("a", QWEN2_7B), ("b", QWEN2_VL_7B)))
    assert seeing.overhead_bytes == plain.overhead_bytes + 2 * GIB


def test_context_that_fits_itself_needs_little(tmp_path: Path) -> None:
    (auto,) = needs_of(tmp_path, QWEN2_7B, {"max-model-len": "auto"})
    (full,) = needs_of(tmp_path, QWEN2_7B, {})
    assert (auto.kv_least_bytes or 0) * 10 < (full.kv_least_bytes or 0) <= (auto.kv_wished_bytes or 0)


def test_on_the_cpu_the_machines_memory_decides_and_no_flag_is_added(tmp_path: Path) -> None:
    host = host_device(HostSnapshot(16 * GIB, 10 * GIB, 6 * GIB, 0.0, 2))
    shape = QWEN2_05B.shape(tmp_path)
    flags = chosen_flags({"kv-cache-memory-bytes": "512M"})
    (found,) = memory_needs(shape, flags, (host,))
    one = UpServer("one", ServerState.READY, {host.key: 3 * GIB})
    fits = answer(world((host_device(HostSnapshot(16 * GIB, 0, 9 * GIB, 0, 2)),), one), found, options={})
    assert isinstance(fits, Decision)
    assert (fits.actions, fits.options_to_add, fits.env_to_add, fits.device_uuids) == ((), {}, {}, ())
    short = answer(world((host,), one), found, options={})
    assert isinstance(short, Decision)
    assert short.actions == (Stop("one", 3 * GIB),)
    alone = answer(world((host_device(HostSnapshot(16 * GIB, 0, 2 * GIB, 0, 2)),)), found, options={})
    assert isinstance(alone, Decision)
    assert alone.is_doubtful, "nothing more can be freed: vLLM may try"
    assert answer(world((host_device(HostSnapshot(16 * GIB, 0, GIB, 0, 2)),)), found) is not None


def test_what_servers_hold_is_taken_from_the_ledger() -> None:
    snapshots = [DeviceSnapshot(0, "GPU-a", "H100"), DeviceSnapshot(1, None, "H100")]
    ledgers = [
        MemoryLedger(0, owners=(Owner(OwnerKind.SERVER, 5, "one"), Owner(OwnerKind.PROCESS, 7, "python"))),
        MemoryLedger(1, owners=(Owner(OwnerKind.SERVER, 6, "one"), Owner(OwnerKind.SERVER, None, "two"))),
        MemoryLedger(None, owners=(Owner(OwnerKind.SERVER, 8, "one"),)),
    ]
    assert held_by_server(ledgers, snapshots) == {"one": {"GPU-a": 5, "index:1": 6}}


def test_a_need_without_figures_has_no_sums() -> None:
    nothing = MemoryNeed(1, 1, None, None, None, GIB)
    assert (nothing.least_bytes, nothing.wished_bytes, nothing.sure_bytes) == (None, None, None)
