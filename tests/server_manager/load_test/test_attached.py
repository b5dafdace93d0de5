"""Load tests of servers that somebody else runs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fakes import Deck, StubServer
from shooting_range import Range

from server_manager.client import ClientSession
from server_manager.load_test.run import LoadState
from server_manager.settings import Settings

pytestmark = pytest.mark.slow


async def test_a_server_of_somebody_else(shooting: Range, settings: Settings, session: ClientSession) -> None:
    server = await shooting.deck.ready("quick")
    there = replace(settings, attach={"far": f"{server.client().base_url}/v1"}, attach_api_key=server.client().api_key)
    far = Range(Deck(there, session))
    run = await far.reach((await far.begin("far")).id)
    (row,) = run.rows
    assert run.state is LoadState.DONE, run
    assert (row.attached, row.was, row.load_s, row.gpu_bytes) == (True, "ready", None, None)
    assert row.levels[0].metrics is not None
    assert row.levels[0].metrics.completed == 4
    await far.deck.manager.close()


async def test_what_the_server_says_against_it(settings: Settings, session: ClientSession, stub: StubServer) -> None:
    """The generator would only say "Bad Request"."""
    said = "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template"
    stub.rejection = (400, json.dumps({"error": {"message": said, "type": "BadRequestError", "code": 400}}).encode())
    far = Range(Deck(replace(settings, attach={"far": stub.url}), session))
    run = await far.reach((await far.begin("far", tokenizer="x/y")).id)
    assert run.state is LoadState.FAILED
    assert run.error is not None
    assert "chat template" in run.error.message
    await far.deck.manager.close()
