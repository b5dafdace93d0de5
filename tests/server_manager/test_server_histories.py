"""Which event leads to which states: histories, replayed."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest
from processes import eventually
from stage import Stage

from server_manager.server_state import ServerState

STOPPED, STARTING, READY, ASLEEP, STOPPING, FAILED = ServerState

HISTORIES: dict[str, list[tuple[str, list[ServerState]]]] = {
    "started, ready, stopped": [
        ("start", [STARTING]),
        ("healthy", [READY]),
        ("stop", [STOPPING, STOPPED]),
    ],
    "stop of a stopped server": [("stop", [])],
    "start of a ready server": [("start", [STARTING]), ("healthy", [READY]), ("start", [])],
    "plan refused, then allowed": [
        ("plan fails", []),
        ("start", [STARTING, STOPPING, FAILED]),
        ("plan works", []),
        ("start", [STARTING]),
        ("healthy", [READY]),
    ],
    "our own mistake while planning": [
        ("planner breaks", []),
        ("start", [STARTING, STOPPING, FAILED]),
        ("plan works", []),
        ("start", [STARTING]),
    ],
    "somebody else cancels what the plan waits for": [
        ("planner is cancelled", []),
        ("start", [STARTING, STOPPING, FAILED]),
        ("plan works", []),
        ("start", [STARTING]),
    ],
    "launch refused, then allowed": [
        ("launch fails", []),
        ("start", [STARTING, STOPPING, FAILED]),
        ("launch works", []),
        ("start", [STARTING]),
        ("healthy", [READY]),
    ],
    "stop while planning": [("hold plan", []), ("start", [STARTING]), ("stop", [STOPPING, STOPPED])],
    "stop while launching": [
        ("hold launch", []),
        ("start", [STARTING]),
        ("stop", []),
        ("let launch", [STOPPING, STOPPED]),
    ],
    "stop while loading": [("start", [STARTING]), ("launched", []), ("stop", [STOPPING, STOPPED])],
    "exit while loading": [("start", [STARTING]), ("launched", []), ("exit 1", [STOPPING, FAILED]), ("stop", [])],
    "exit with code 0 while serving": [
        ("start", [STARTING]),
        ("healthy", [READY]),
        ("exit 0", [STOPPING, FAILED]),
        ("start", [STARTING, READY]),
    ],
    "engine dies while serving": [
        ("start", [STARTING]),
        ("healthy", [READY]),
        ("engine dead", [STOPPING, FAILED]),
        ("start", [STARTING]),
        ("healthy", [READY]),
    ],
    "a busy server does not answer for a while": [
        ("start", [STARTING]),
        ("healthy", [READY]),
        ("no health", []),
        ("healthy", []),
        ("stop", [STOPPING, STOPPED]),
    ],
    "asleep, awake, asleep, stopped": [
        ("start", [STARTING]),
        ("healthy", [READY]),
        ("sleep", [ASLEEP]),
        ("sleep", []),
        ("wake", [READY]),
        ("wake", []),
        ("sleep", [ASLEEP]),
        ("stop", [STOPPING, STOPPED]),
    ],
    "dies asleep": [("start", [STARTING]), ("healthy", [READY]), ("sleep", [ASLEEP]), ("exit 0", [STOPPING, FAILED])],
    "started again while it stops": [
        ("start", [STARTING]),
        ("healthy", [READY]),
        ("deaf", []),
        ("stop", [STOPPING]),
        ("start", [STOPPED, STARTING, READY]),
    ],
    "started again while it stops, and stopped again": [
        ("start", [STARTING]),
        ("healthy", [READY]),
        ("deaf", []),
        ("stop", [STOPPING]),
        ("start", []),
        ("stop", [STOPPED]),
    ],
    "crash, and started again": [
        ("may restart twice", []),
        ("start", [STARTING]),
        ("healthy", [READY]),
        ("exit 0", [STOPPING, FAILED, STARTING, READY]),
        ("stop", [STOPPING, STOPPED]),
    ],
    "crashes until it is given up": [
        ("may restart twice", []),
        ("start", [STARTING]),
        ("healthy", [READY]),
        ("exit 0", [STOPPING, FAILED, STARTING, READY]),
        ("exit 0", [STOPPING, FAILED, STARTING, READY]),
        ("exit 0", [STOPPING, FAILED]),
        ("start", [STARTING, READY]),
    ],
    "crash, and the start after it fails once": [
        ("may restart twice", []),
        ("start", [STARTING]),
        ("healthy", [READY]),
        ("launch fails", []),
        ("exit 0", [STOPPING, FAILED, STARTING, STOPPING, FAILED, STARTING, STOPPING, FAILED]),
    ],
    "a start that fails is not tried again": [
        ("may restart twice", []),
        ("start", [STARTING]),
        ("launched", []),
        ("exit 1", [STOPPING, FAILED]),
    ],
    "two stops at once": [
        ("start", [STARTING]),
        ("healthy", [READY]),
        ("deaf", []),
        ("stop", [STOPPING]),
        ("stop now", [STOPPED]),
    ],
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES.keys())
async def test_history(
    stage: Stage, caplog: pytest.LogCaptureFixture, history: list[tuple[str, list[ServerState]]]
) -> None:
    caplog.set_level(logging.INFO, logger="server_manager.status_cell")

    def transitions() -> list[str]:
        return [record.getMessage().split(" -> ")[1] for record in caplog.records if " -> " in record.getMessage()]

    expected: list[str] = []
    for event, states in history:
        await stage.event(event)
        expected += states
        await eventually(partial(lambda count: len(transitions()) >= count, len(expected)), f"{states} after {event}")
        if not states:
            await asyncio.sleep(0.1)  # time for a transition that must not come
        assert transitions() == expected, f"after {event}"
