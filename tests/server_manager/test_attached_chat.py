"""Chats with servers that somebody else runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import AddModel, Deck
from processes import eventually

from server_manager import attached_server
from server_manager.client import ClientSession
from server_manager.errors import NotAllowed, ServerUnreachable
from server_manager.server_state import ServerState
from server_manager.settings import Settings, attach_api_key


async def test_attached_server_answers_and_its_end_is_noticed(
    deck: Deck,
    settings: Settings,
    session: ClientSession,
    add_model: AddModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attached_server, "_PROBE_INTERVAL", 0.2)
    add_model("m", answer_tokens=3)
    owner_of_it = await deck.ready("m")
    client = owner_of_it.client()
    monkeypatch.setenv("DECK_ATTACH_API_KEY", client.api_key or "")
    attached = {"remote": f"{client.base_url}/v1/"}
    other = Deck(replace(settings, attach=attached, attach_api_key=attach_api_key()), session)
    await other.manager.open()
    try:
        assert other.manager.names()[0] == "remote"
        assert (await other.ask("remote", may_start=False)).content == "word0 word1 word2 "
        remote = other.manager.server("remote")
        assert remote.status.attached
        assert remote.status.max_model_len == 2048
        for refused in (remote.stop(), remote.sleep(), remote.wake()):
            with pytest.raises(NotAllowed, match="attached"):
                await refused
        other.manager.switch("remote", leaving="remote")
        other.manager.start("remote")
        await deck.stop("m")
        await other.reach("remote", ServerState.FAILED)
        assert remote.status.exit is not None
        assert "does not answer" in remote.status.exit.message
        with pytest.raises(ServerUnreachable, match="does not answer"):
            await other.ask("remote")
    finally:
        await other.manager.close()


async def test_switch_to_an_attached_server_stops_the_one_left(
    deck: Deck, settings: Settings, session: ClientSession, add_model: AddModel
) -> None:
    add_model("m")
    add_model("remote-m")
    base_url = (await deck.ready("remote-m")).client().base_url
    other = Deck(replace(settings, attach={"remote": base_url}), session)
    await other.ready("m")
    try:
        other.manager.switch("remote", leaving="m")
        await other.reach("m", ServerState.STOPPED)
    finally:
        await other.manager.close()


async def test_attached_server_that_is_not_there(
    settings: Settings, session: ClientSession, add_model: AddModel
) -> None:
    deck = Deck(replace(settings, attach={"remote": "http://127.0.0.1:9"}), session)
    await deck.manager.open()
    await eventually(lambda: deck.manager.server("remote").status.state is ServerState.FAILED, "it is noticed")
    with pytest.raises(ServerUnreachable):
        await deck.ask("remote", may_start=False)
    await deck.manager.close()
