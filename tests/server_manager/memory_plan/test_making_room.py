"""Who has to make room for a start or a wake, and who is waited for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plan_worlds import decided, gib, gpu, need, refused, up, world

from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.planner import decide_wake
from server_manager.memory_plan.release import Sleep, Stop, WaitFor, WaitReason
from server_manager.memory_plan.world import Policy, UpServer
from server_manager.server_state import ServerState

ASLEEP, STARTING, STOPPING = ServerState.ASLEEP, ServerState.STARTING, ServerState.STOPPING


# For a start


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


# For a wake


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
