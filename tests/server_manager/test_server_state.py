"""Which transitions there are, and what onlookers see."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest

from server_manager.server_state import LEGAL, ServerState, ServerStatus, Waiting
from server_manager.status_cell import StatusCell

STOPPED, STARTING, READY, ASLEEP, STOPPING, FAILED = ServerState
ALLOWED = {
    (STOPPED, STARTING),
    (STOPPED, READY),
    (STARTING, READY),
    (STARTING, STOPPING),
    (STARTING, FAILED),
    (READY, ASLEEP),
    (READY, STOPPING),
    (READY, FAILED),
    (ASLEEP, READY),
    (ASLEEP, STOPPING),
    (ASLEEP, FAILED),
    (STOPPING, STOPPED),
    (STOPPING, FAILED),
    (FAILED, STARTING),
    (FAILED, READY),
}


@pytest.mark.parametrize(("before", "after"), list(product(ServerState, ServerState)))
def test_every_pair_of_states(before: ServerState, after: ServerState) -> None:
    cell = StatusCell(ServerStatus("m", before))
    if (before, after) in ALLOWED:
        cell.transition(after, detail="x")
        assert (cell.value.state, cell.value.detail) == (after, "x")
        assert cell.value.since > 0
    else:
        with pytest.raises(AssertionError, match=f"{before} -> {after}"):
            cell.transition(after, detail="x")
        assert (cell.value.state, cell.value.detail) == (before, "")


def test_a_failed_or_stopped_server_can_always_be_started() -> None:
    assert all(STARTING in LEGAL[state] for state in (STOPPED, FAILED))


async def test_waiting_goes_on_until_the_condition_holds() -> None:
    cell = StatusCell(ServerStatus("m"))
    waiting = asyncio.create_task(cell.wait_until(lambda status: status.detail == "latest"))
    for state, detail in ((STARTING, "first"), (STOPPING, "second"), (STOPPED, "third")):
        cell.transition(state, detail=detail)
        await asyncio.sleep(0)
        assert not waiting.done()
    cell.update(detail="latest")
    await asyncio.wait_for(waiting, 10)


async def test_waiting_ends_with_the_task_it_depends_on() -> None:
    cell = StatusCell(ServerStatus("m"))
    task = asyncio.create_task(asyncio.sleep(0))
    await asyncio.wait_for(cell.wait_until(lambda status: status.state is READY, unless_done=task), 10)
    assert cell.value.state is STOPPED


def test_what_a_server_waits_for_is_told_with_every_reason() -> None:
    assert Waiting(2, ("a", "b")).words == "waiting in line, 2 before it (a, b)"
    several = Waiting(0, ("a", "b", "c"), ("in_use", "starting", "in_use"))
    assert several.words == "waiting for answers of a, c to end and b to have started"
