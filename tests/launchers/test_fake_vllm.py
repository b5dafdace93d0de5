"""The fake vLLM must behave as the real one was measured to, or the tests that use it prove nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from server_manager.launchers.local import LocalLauncher
from server_manager.launchers.local_handle import LocalServerHandle
from server_manager.settings import Settings

from .conftest import Launch, eventually, is_serving, request_for

HEADERS = {"Authorization": "Bearer secret-key"}
CHAT = {"messages": [{"role": "user", "content": "hello you"}], "stream": True}


def url(handle: LocalServerHandle, path: str) -> str:
    return f"http://127.0.0.1:{handle.record.port}{path}"


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        yield session


async def requests_running(http: aiohttp.ClientSession, handle: LocalServerHandle) -> float:
    async with http.get(url(handle, "/metrics")) as answer:
        lines = (await answer.text()).splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith("vllm:num_requests_running{")))


async def test_stream(launch: Launch, http: aiohttp.ClientSession) -> None:
    handle = await launch(answer_tokens=3)
    body = CHAT | {"stream_options": {"include_usage": True}}
    async with http.post(url(handle, "/v1/chat/completions"), json=body) as answer:
        lines = [line[6:] for line in (await answer.text()).split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["delta"]["content"] for event in events[1:-1]] == ["word0 ", "word1 ", "word2 "]
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 3


async def test_key_is_asked_for_on_v1_only(launch: Launch) -> None:
    handle = await launch()
    async with aiohttp.ClientSession() as nobody:
        async with nobody.get(url(handle, "/v1/models")) as answer:
            assert answer.status == 401
            assert await answer.json() == {"error": "Unauthorized"}
        async with nobody.get(url(handle, "/health")) as answer:
            assert answer.status == 200


async def test_client_that_leaves_frees_the_engine(launch: Launch, http: aiohttp.ClientSession) -> None:
    handle = await launch(answer_tokens=10_000, tokens_per_second=50)
    answer = await http.post(url(handle, "/v1/chat/completions"), json=CHAT)
    await answer.content.readany()
    assert await requests_running(http, handle) == 1
    answer.close()
    while await requests_running(http, handle):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def test_sigterm_with_an_open_stream_hangs_until_the_client_leaves(
    launch: Launch, http: aiohttp.ClientSession
) -> None:
    handle = await launch(answer_tokens=10_000, tokens_per_second=50)
    answer = await http.post(url(handle, "/v1/chat/completions"), json=CHAT)
    await answer.content.readany()
    handle.terminate()
    log = Path(handle.record.log_path)
    await eventually(lambda: "Waiting for connections to close" in log.read_text(), "it waits for its client")
    handle.terminate()
    assert handle.poll() is None
    answer.close()
    assert await handle.wait() == 0


async def test_one_sigterm_is_swallowed_while_loading(launch: Launch) -> None:
    handle = await launch(ready=False, ready_after=1)
    log = Path(handle.record.log_path)
    await eventually(lambda: "Resolved architecture" in log.read_text(), "it loads")
    handle.terminate()
    await eventually(lambda: is_serving(handle.record.port), "it became ready all the same")


async def test_second_sigterm_while_loading_interrupts(launch: Launch) -> None:
    handle = await launch(ready=False, ready_after=60)
    log = Path(handle.record.log_path)
    await eventually(lambda: "non-default args" in log.read_text(), "it loads")
    while handle.poll() is None:
        handle.terminate()
        await asyncio.sleep(0.1)
    assert handle.poll() == -signal.SIGINT


async def test_engine_that_dies_while_serving_ends_with_code_0(launch: Launch, http: aiohttp.ClientSession) -> None:
    handle = await launch(answer_tokens=100, tokens_per_second=200, crash_after=5, crash_delay=0.5)
    async with http.post(url(handle, "/v1/chat/completions"), json=CHAT) as answer:
        await answer.content.readany()
        with pytest.raises(aiohttp.ClientError):
            await answer.read()
    assert await handle.wait() == 0


async def test_killed_engine_core_gives_503_and_code_0(launch: Launch, http: aiohttp.ClientSession) -> None:
    handle = await launch(crash_delay=1)
    engine = next(info.pid for info in handle.processes() if info.name.startswith("VLLM::EngineCor"))
    os.kill(engine, signal.SIGKILL)

    async def status() -> int:
        async with http.get(url(handle, "/health")) as answer:
            return answer.status

    while await status() == 200:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert await status() == 503
    assert await handle.wait() == 0


async def test_replayed_log_and_its_exit_code(launch: Launch, tmp_path: Path) -> None:
    recorded = tmp_path / "recorded.log"
    recorded.write_bytes(b"first \xff line\r\nRuntimeError: no\n")
    handle = await launch(ready=False, replay=recorded, exit_code=1)
    assert await handle.wait() == 1
    assert Path(handle.record.log_path).read_bytes().endswith(recorded.read_bytes())


async def test_port_in_use(launch: Launch, launcher: LocalLauncher, settings: Settings) -> None:
    handle = await launch()
    request = request_for(settings)
    second = await launcher.launch(
        replace(
            request,
            log_path=settings.logs_dir / "second.log",
            argv=(*settings.vllm_command, "serve", "smol", "--port", str(handle.record.port)),
        )
    )
    assert await second.wait() == 1
    assert "Address already in use" in (settings.logs_dir / "second.log").read_text()
    await second.kill()
    assert is_serving(handle.record.port)
