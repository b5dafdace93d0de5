"""What servers are asked besides chats, and what becomes of what they say."""

from __future__ import annotations

import pytest
from aiohttp import web
from chat_answers import ANSWER, TOO_LONG, chunk, sends
from fakes import AddModel, Deck, StubServer
from processes import free_port

from server_manager import sleep_routes
from server_manager.client import ClientSession, ServerClient
from server_manager.errors import ContextExceeded, ManagerClosed, RequestRejected, ServerUnreachable


async def test_nobody_there(session: ClientSession) -> None:
    client = ServerClient(session, f"http://127.0.0.1:{free_port()}")
    assert await client.health() is None
    assert await client.metrics() is None
    assert await client.count_tokens([]) is None
    for question in (client.models(), sleep_routes.sleep(client, 1), sleep_routes.wake_up(client, 1)):
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
        return "".join([text async for text in client.stream_with_openai({"model": "m", "messages": [], "top_k": 5})])

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
