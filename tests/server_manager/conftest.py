"""Servers of real processes (a fake vLLM), and a check after each test that nothing of them is left."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import AddModel, Deck, StubServer
from gateway_desk import Desk, open_desk
from processes import FAKE_VLLM, clear_and_report, fake_shared_memory
from stage import Stage

from server_manager import restart_policy, serving_watch
from server_manager.client import ClientSession, ServerClient
from server_manager.settings import Settings


@pytest.fixture
def clean_end(short_tmp: Path) -> Iterator[None]:
    """When the test is over, no process, TMPDIR or shared memory of its servers may be left."""
    memory_before = fake_shared_memory()
    yield
    left = clear_and_report(short_tmp, memory_before)
    assert not left, f"left behind: {left}"


@pytest.fixture
def settings(tmp_path: Path, clean_end: None) -> Settings:
    """Patience is short, so that a stop that needs force does not take long."""
    state_dir = tmp_path / "state"
    (state_dir / "logs").mkdir(parents=True)
    return Settings(
        state_dir=state_dir,
        models_dir=tmp_path / "models",
        vllm_command=(sys.executable, str(FAKE_VLLM)),
        health_interval=0.05,
        shutdown_timeout=1.0,
        kill_after=2.0,
    )


@pytest.fixture
def add_model(settings: Settings, tmp_path: Path) -> AddModel:
    """Writes a model file; keywords are ``FAKE_VLLM_*`` settings of its server, ``options`` its flags."""

    def add_model(name: str, options: Mapping[str, object] | None = None, **fake: object) -> str:
        folder = tmp_path / "weights" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        settings.models_dir.mkdir(exist_ok=True)
        flags = {"model": str(folder), **(options or {})}
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in flags.items())
        (settings.models_dir / f"{name}.yaml").write_text(text)
        env = "".join(f"FAKE_VLLM_{key.upper()}={value}\n" for key, value in fake.items())
        (settings.models_dir / f"{name}.env").write_text(env)
        return name

    return add_model


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession() as opened:
        yield opened


@pytest.fixture
async def stub() -> AsyncIterator[StubServer]:
    async with StubServer() as found:
        yield found


@pytest.fixture
def client(stub: StubServer, session: ClientSession) -> ServerClient:
    """Of the stub."""
    return ServerClient(session, stub.url, "key")


@pytest.fixture
async def deck(settings: Settings, session: ClientSession) -> AsyncIterator[Deck]:
    """A manager and a chat over the models of ``add_model``, without a GPU; closed after the test."""
    found = Deck(settings, session)
    yield found
    found.chat.close()
    await found.manager.close()


@pytest.fixture
async def stage(settings: Settings, session: ClientSession, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(serving_watch, "HEALTH_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(serving_watch, "ENGINE_DEATH_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(serving_watch, "REFUSAL_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(restart_policy, "FIRST_DELAY_SECONDS", 0.05)
    async with StubServer() as http:
        found = Stage(replace(settings, health_interval=0.01, kill_after=0.3), session, http)
        yield found
        await found.server.stop(now=True)
        await asyncio.gather(*found.tasks, return_exceptions=True)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A gateway with a client and a server that the test plays."""
    async with open_desk(tmp_path) as found:
        yield found
