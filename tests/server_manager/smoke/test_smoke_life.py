"""The smoke test and the life of its server."""

from __future__ import annotations

import asyncio

import pytest
from fakes import AddModel, Deck

from server_manager.errors import ServerUnreachable, StartError
from server_manager.server_state import ServerState
from server_manager.smoke.smoke_test import smoke_test

pytestmark = pytest.mark.slow


async def test_server_is_started_and_in_use_meanwhile_and_may_be_stopped(deck: Deck, add_model: AddModel) -> None:
    add_model("slow", tokens_per_second=1)
    testing = asyncio.create_task(smoke_test(deck.manager, "slow"))
    await deck.reach("slow", ServerState.READY)
    await deck.reach_running("slow", 1)
    assert deck.manager.idle_since("slow") is None
    await deck.stop("slow")
    with pytest.raises(ServerUnreachable, match="stopped in the middle"):
        await testing
    assert deck.manager.idle_since("slow") is not None


async def test_start_that_fails_is_the_error(deck: Deck, add_model: AddModel) -> None:
    add_model("broken", exit_code=1)
    with pytest.raises(StartError):
        await smoke_test(deck.manager, "broken")


async def test_whoever_gives_up_leaves_nothing_behind(deck: Deck, add_model: AddModel) -> None:
    add_model("slow", tokens_per_second=1)
    testing = asyncio.create_task(smoke_test(deck.manager, "slow"))
    await deck.reach("slow", ServerState.READY)
    await deck.reach_running("slow", 1)
    testing.cancel()
    await asyncio.wait({testing})
    assert testing.cancelled()
    await deck.reach_running("slow", 0)
