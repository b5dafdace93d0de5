"""Answers that end at the same time are saved together, and none at the cost of another."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conversations.kept import Kept

from server_manager.conversations.batches import Batches
from server_manager.errors import NotAllowed


def test_what_waits_is_done_at_once_and_never_before_what_was_asked_earlier() -> None:
    done: list[list[int]] = []
    go = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        batches = Batches[int](thread.submit, done.append)
        thread.submit(go.wait, 30)
        first = [batches.add(number) for number in (1, 2, 3)]
        batches.close()
        thread.submit(done.append, [-1])
        second = batches.add(4)
        go.set()
        for future in (*first, second):
            future.result(30)
        batches.add(5).result(30)
    assert done == [[1, 2, 3], [-1], [4], [5]]


async def test_a_mistake_in_one_answer_does_not_cost_those_saved_with_it(kept: Kept) -> None:
    go = threading.Event()

    def give_away_late(connection: sqlite3.Connection) -> None:
        go.wait(30)
        connection.execute(
            "INSERT INTO conversation (id, owner, created, updated) VALUES ('conversation-2', 'x', 1, 1)"
        )

    late = asyncio.create_task(kept.change(give_away_late))
    await asyncio.sleep(0)  # the thread that writes is busy from here on
    asked = [asyncio.create_task(kept.ask(str(number), conversation=f"conversation-{number}")) for number in (1, 2, 3)]
    while sum(writing.answer is not None for writing in kept.store._writings.values()) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    go.set()
    await asyncio.gather(late, *asked)
    assert await kept.said("conversation-1") == [("1", "yes")]
    assert await kept.said("conversation-3") == [("3", "yes")]
    with pytest.raises(NotAllowed):
        await kept.said("conversation-2")
