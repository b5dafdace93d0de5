"""What the planner decides on machines that people have: how much, where, and when it is not sure."""

from __future__ import annotations

import math

from plan_worlds import GIB, decided, gib, gpu, need, refused, up, world

from server_manager.memory_plan.chosen import ChosenFlags
from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.need import NeedBasis
from server_manager.memory_plan.planner import StartRequest, decide_start, decide_wake
from server_manager.memory_plan.release import Sleep, Stop
from server_manager.memory_plan.world import Policy, devices_of
from server_manager.server_state import ServerState
from server_manager.telemetry.base import DeviceSnapshot

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
