"""What a server may send, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web
from fakes import AddModel, Deck, StubServer
from processes import free_port

from server_manager import sleep_routes
from server_manager.client import ChatDelta, ClientSession, ServerClient, _events
from server_manager.errors import ContextExceeded, ManagerClosed, RequestRejected, ServerUnreachable

TOO_LONG = (
    b'{"error":{"message":"This model\'s maximum context length is 2048 tokens. However, your prompt contains at least '
    b"2049 input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the "
    b'input prompt. (parameter=input_tokens, value=2049)","type":"BadRequestError","param":"input_tokens","code":400}}'
)
MAX_TOKENS = (
    b'{"error":{"message":"max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output '
    b'tokens. (parameter=max_tokens, value=5000)","type":"BadRequestError","param":"max_tokens","code":400}}'
)
UNKNOWN_MODEL = (
    b'{"error":{"message":"The model `nope` does not exist. Valid aliases: smol, smol-alias.","type":"NotFoundError",'
    b'"param":"model","code":404}}'
)


def chunk(finish: str | None = None, **delta: object) -> bytes:
    # More fields than we read, as vLLM sends them.
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


USAGE = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":7,"total_tokens":10,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
ANSWER = (
    chunk(role="assistant", content="")
    + b": keep-alive\n\n"
    + chunk(reasoning="Hm. ")
    + chunk(reasoning_content="Ja, ")
    + chunk(content="grün €").replace(b"\n\n", b"\r\n\r\n")
    + chunk(content=" 😀", finish="stop")
    + USAGE
    + DONE
)

Send = Callable[[web.StreamResponse], Awaitable[Any]]


@pytest.fixture
async def stub() -> AsyncIterator[StubServer]:
    async with StubServer() as found:
        yield found


@pytest.fixture
def client(stub: StubServer, session: ClientSession) -> ServerClient:
    return ServerClient(session, stub.url, "key")


def sends(*blocks: bytes, abort: bool = False) -> Send:
    async def send(response: web.StreamResponse) -> None:
        for block in blocks:
            await response.write(block)
            await asyncio.sleep(0.01)
        if abort:
            assert response._req is not None
            assert response._req.transport is not None
            response._req.transport.abort()

    return send


async def ask(client: ServerClient) -> list[ChatDelta]:
    async with aclosing(client.stream_chat({"model": "m", "messages": []})) as deltas:
        return [delta async for delta in deltas]


def check_answer(deltas: list[ChatDelta]) -> None:
    assert "".join(delta.content for delta in deltas) == "grün € 😀"
    assert "".join(delta.reasoning for delta in deltas) == "Hm. Ja, "
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert [(d.prompt_tokens, d.completion_tokens) for d in deltas if d.prompt_tokens is not None] == [(7, 3)]


class Blocks:
    """What aiohttp's reader would hand over."""

    def __init__(self, *blocks: bytes) -> None:
        self._blocks = blocks

    async def iter_any(self) -> AsyncIterator[bytes]:
        for block in self._blocks:
            yield block


async def events_of(*blocks: bytes) -> list[bytes]:
    return [event async for event in _events(Blocks(*blocks))]  # type: ignore[arg-type]


async def test_a_stream_cut_anywhere_reads_the_same() -> None:
    whole = await events_of(ANSWER)
    assert len(whole) == 7
    for cut in range(len(ANSWER)):
        assert await events_of(ANSWER[:cut], ANSWER[cut:]) == whole
    assert await events_of(*(bytes([byte]) for byte in ANSWER)) == whole


async def test_one_read_may_hold_the_whole_answer(client: ServerClient, stub: StubServer) -> None:
    stub.stream = sends(ANSWER)
    check_answer(await ask(client))
    assert stub.requests == [
        {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}},
    ]


async def test_an_answer_in_pieces(client: ServerClient, stub: StubServer) -> None:
    stub.stream = sends(*(ANSWER[i : i + 37] for i in range(0, len(ANSWER), 37)))
    check_answer(await ask(client))


async def test_a_stream_that_ends_without_the_empty_line(client: ServerClient, stub: StubServer) -> None:
    stub.stream = sends(chunk(content="x"), b"data:[DONE]")
    assert [delta.content for delta in await ask(client)] == ["x"]


@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("tail", [b"", b'data: {"choices'])
async def test_a_stream_without_done_broke_off(
    client: ServerClient, stub: StubServer, abort: bool, tail: bytes
) -> None:
    stub.stream = sends(chunk(content="x"), tail or b": comment\n\n", abort=abort)
    answer = client.stream_chat({"model": "m", "messages": []})
    assert (await anext(answer)).content == "x"
    with pytest.raises(ServerUnreachable):
        await anext(answer)


async def test_an_error_in_mid_answer(client: ServerClient, stub: StubServer) -> None:
    error = (
        b'data: {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}'
    )
    stub.stream = sends(chunk(content="x"), error + b"\n\n", DONE)
    with pytest.raises(RequestRejected, match=r"The answer broke off: EngineCore encountered an issue\.") as caught:
        await ask(client)
    assert caught.value.facts["status"] == 500


async def test_a_chunk_that_is_none(client: ServerClient, stub: StubServer) -> None:
    stub.stream = sends(b"data: <html>\n\n", DONE)
    with pytest.raises(RequestRejected, match="no chat chunk"):
        await ask(client)


async def test_too_long_with_its_numbers(client: ServerClient, stub: StubServer) -> None:
    stub.rejection = (400, TOO_LONG)
    with pytest.raises(ContextExceeded, match="--max-model-len") as caught:
        await ask(client)
    assert caught.value.facts == {"max_model_len": 2048, "prompt_tokens": 2049}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, MAX_TOKENS, "max_tokens=5000 cannot be greater than max_model_len=2048"),
        (404, UNKNOWN_MODEL, "The model `nope` does not exist.*see its served-model-name"),
        (401, b'{"error": "Unauthorized"}', "Unauthorized.*key"),
        (503, b"overloaded", "overloaded.*queue"),
        (500, b"", "HTTP status 500"),
        (422, b'{"error": {"message": 5}}', "refused"),
        (502, b"\xff<html>", "refused"),
    ],
)
async def test_refusals_are_passed_on(
    client: ServerClient, stub: StubServer, status: int, body: bytes, message: str
) -> None:
    stub.rejection = (status, body)
    with pytest.raises(RequestRejected, match=message) as caught:
        await ask(client)
    assert caught.value.facts["status"] == status


async def test_nobody_there(session: ClientSession) -> None:
    client = ServerClient(session, f"http://127.0.0.1:{free_port()}")
    assert await client.health() is None
    assert await client.metrics() is None
    assert await client.count_tokens([]) is None
    for question in (client.models(), sleep_routes.sleep(client, 1), sleep_routes.wake_up(client, 1), ask(client)):
        with pytest.raises(ServerUnreachable, match="does not answer"):
            await question


async def test_something_else_there(client: ServerClient, stub: StubServer) -> None:
    other = ServerClient(client.session, f"{stub.url}/health?")
    stub.health = 200
    with pytest.raises(RequestRejected, match="does not answer as an OpenAI-compatible server"):
        await other.models()


async def test_no_request_after_the_end(stub: StubServer) -> None:
    async with ClientSession() as session:
        client = ServerClient(session, stub.url)
        assert await client.health() == 503
    with pytest.raises(ManagerClosed):
        await client.health()


async def test_closing_the_answer_aborts_it_in_the_server(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=10_000, tokens_per_second=50)
    client = (await deck.ready("m")).client()
    answer = client.stream_chat({"messages": [{"role": "user", "content": "x"}]})
    await anext(answer)
    await deck.reach_running("m", 1)
    await answer.aclose()
    await deck.reach_running("m", 0)


async def test_figures_tokens_models_and_sleep_of_a_real_process(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"max-model-len": 777, "served-model-name": "alias", "enable-sleep-mode": True}, answer_tokens=5)
    server = await deck.ready("m")
    client = server.client()
    assert [(model.id, model.max_model_len) for model in await client.models()] == [("alias", 777)]
    assert await client.count_tokens([{"role": "user", "content": "one two three"}]) == 7
    await deck.ask("m")
    metrics = await client.metrics()
    assert metrics is not None
    assert (metrics.num_requests_running, metrics.num_requests_waiting) == (0, 0)
    assert metrics.generation_tokens_total == 5
    assert metrics.kv_cache_usage_perc == 0
    await server.sleep()
    assert await sleep_routes.is_sleeping(client)
    assert await sleep_routes.sleep_level(client) == 1
    await server.wake()
    assert not await sleep_routes.is_sleeping(client)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_official_client_streams_refuses_and_notices_the_end(stub: StubServer, client: ServerClient) -> None:
    async def ask_officially() -> str:
        return "".join([text async for text in client.stream_with_openai("m", [], {"top_k": 5})])

    stub.stream = sends(ANSWER)
    assert await ask_officially() == "grün € 😀"
    assert stub.requests[-1]["top_k"] == 5
    stub.stream = sends(chunk(content="x"), abort=True)
    with pytest.raises(ServerUnreachable):
        await ask_officially()
    stub.stream = sends(chunk(content="x"), b'data: {"error": {"message": "engine died"}}\n\n')
    with pytest.raises(RequestRejected, match="engine died"):
        await ask_officially()
    stub.rejection = (400, TOO_LONG)
    with pytest.raises(ContextExceeded):
        await ask_officially()


async def test_figures_are_summed_over_ranks(session: ClientSession) -> None:
    text = (
        "# HELP vllm:num_requests_running n\n"
        'vllm:num_requests_running{engine="0",model_name="a b"} 2.0\n'
        'vllm:num_requests_running{engine="1",model_name="a b"} 3.0\n'
        'vllm:num_requests_waiting{engine="0"} 1.0\n'
        'vllm:num_requests_waiting_by_reason{engine="0"} 9.0\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.25\n'
        'vllm:kv_cache_usage_perc{engine="1"} 0.75\n'
    )

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=text)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        found = await ServerClient(session, f"http://127.0.0.1:{runner.addresses[0][1]}").metrics()
    finally:
        await runner.cleanup()
    assert found is not None
    assert (found.num_requests_running, found.num_requests_waiting) == (5, 1)
    assert found.kv_cache_usage_perc == 0.75
    assert found.generation_tokens_total is None
