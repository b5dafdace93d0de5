"""The gateway between a client and one server, both played by the test: every byte, and who is refused."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from gateway_desk import BODY, HEAD, STREAM, Client, Desk, piece

from server_manager.errors import ServerManagerError, SpecError
from server_manager.server_state import ServerState
from server_manager.settings import gateway_wait

# What passes


async def test_bytes_pass_both_ways(desk: Desk) -> None:
    """Odd JSON, compressed bytes, headers that nobody knows; only the name changes, and what is ours."""
    packed = b"\x1f\x8b\x08\x00 not really gzip \xff\x00"
    desk.stub.answer = (
        b"HTTP/1.1 418 Teapot\r\nContent-Encoding: gzip\r\nX-Request-Id: 7\r\nSet-Cookie: a=b\r\nConnection: x-hop\r\n"
        b"X-Hop: 1\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: %d\r\n\r\n" % len(packed),
        packed,
    )
    headers = [
        ("content-type", "application/json"),
        ("authorization", "Bearer client-key"),
        ("x-api-key", "client-key"),
        ("cookie", "deck-session=secret"),
        ("origin", "http://127.0.0.1:7860"),
        ("x-trace", "abc"),
        ("user-agent", "me/1"),
        ("accept-encoding", "gzip, br"),
    ]
    client = await desk.ask(b'{"model":"theirs",  "n":1.50e0}', headers=headers, query="beta=true&x=%2F")
    assert (client.status, client.body, client.ended) == (418, packed, True)
    assert client.headers["content-encoding"] == "gzip"
    assert client.headers["x-request-id"] == "7"
    assert not {"set-cookie", "connection", "x-hop", "access-control-allow-origin"} & set(client.headers)
    assert "sandbox" in client.headers["content-security-policy"]
    head, _, body = desk.stub.requests[0].partition(b"\r\n\r\n")
    text = head.decode().lower()
    assert body == b'{"model":"theirs",  "n":1.50e0}'
    assert text.startswith("post /v1/chat/completions?beta=true&x=%2f http/1.1")
    for line in ("authorization: bearer server-key", "x-trace: abc", "user-agent: me/1", "accept-encoding: gzip, br"):
        assert line in text
    for word in ("client-key", "secret", "cookie", "origin", "x-api-key"):
        assert word not in text


@pytest.mark.parametrize(
    ("asked", "sent"),
    [("mine", "theirs"), ("theirs", "theirs"), ("alias", "alias"), ("org/model", "theirs"), ("tune", "theirs")],
)
async def test_server_reads_a_name_that_it_knows(desk: Desk, asked: str, sent: str) -> None:
    body = BODY.replace(b"mine", asked.encode())
    await desk.ask(body)
    received = desk.stub.requests[0].partition(b"\r\n\r\n")[2]
    assert json.loads(received)["model"] == sent
    if asked == sent:
        assert received == body
    assert b"1.50e0" in received


async def test_request_without_a_model_means_the_only_server_that_is_up(desk: Desk) -> None:
    client = await desk.ask(b"", "/v1/responses/resp_1", method="GET")
    assert (client.status, client.json["error"]["param"]) == (400, "model")
    await desk.manager.ready()
    desk.client = Client()
    assert (await desk.ask(b"", "/v1/responses/resp_1", method="GET")).status == 200
    assert desk.stub.requests[0].startswith(b"GET /v1/responses/resp_1 ")


async def test_chunks_come_as_they_are_made(desk: Desk) -> None:
    desk.stub.answer = (HEAD, piece(b"data: 1\n\n"), 5.0)
    asking = asyncio.create_task(desk.ask(STREAM))
    while desk.client.body != b"data: 1\n\n":  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    desk.gone.set_result(None)
    await asking


# The client's end


async def test_client_that_leaves_ends_the_request(desk: Desk) -> None:
    desk.stub.answer = (HEAD, piece(b"data: 1\n\n"), 5.0)
    asking = asyncio.create_task(desk.ask(STREAM))
    while not desk.client.body:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    desk.gone.set_result(None)
    await asking
    async with asyncio.timeout(2):
        await desk.stub.client_left.wait()


async def test_client_that_leaves_while_it_waits_asks_nothing(desk: Desk) -> None:
    desk.manager.start = lambda: asyncio.sleep(30)
    asking = asyncio.create_task(desk.ask(STREAM))
    await asyncio.sleep(0.01)
    desk.gone.set_result(None)
    await asking
    assert desk.stub.requests == []


# Refusing


async def refused(desk: Desk, status: int, **how: Any) -> dict[str, Any]:
    client = await desk.ask(**how)
    assert client.status == status
    assert desk.stub.requests == []
    found: dict[str, Any] = client.json
    return found


async def test_unknown_model_is_404_with_the_known_ones(desk: Desk) -> None:
    error = (await refused(desk, 404, body=b'{"model":"nope"}'))["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "mine" in error["message"]


async def test_unknown_model_in_anthropics_words(desk: Desk) -> None:
    found = await refused(desk, 404, body=b'{"model":"nope"}', path="/v1/messages")
    assert found["type"] == "error"
    assert found["error"]["type"] == "not_found_error"


async def test_user_starts_nothing_but_may_wake(desk: Desk) -> None:
    error = (await refused(desk, 403, operator=False))["error"]
    assert (error["type"], error["code"]) == ("permission_error", "not_permitted")
    await desk.manager.ready()
    desk.manager.status = replace(desk.manager.status, state=ServerState.ASLEEP)
    desk.client = Client()
    assert (await desk.ask(operator=False)).status == 200


async def test_adapters_are_for_operators(desk: Desk) -> None:
    await desk.manager.ready()
    await refused(desk, 403, operator=False, path="/v1/load_lora_adapter")


@pytest.mark.parametrize(
    "path",
    [
        "/sleep", "/wake_up", "/collective_rpc", "/server_info", "/reset_prefix_cache", "/invocations", "/metrics",
        "/v1", "/v1/", "/v1/../sleep", "/v1/./models", "/v1/..", "/v1/x/../../sleep", "/v1//sleep", "//sleep",
        "/v1/%2e%2e/sleep", "/v1/..%2fsleep", "/v1/x%2Fy", "/v1/x\\..\\sleep", "/v1/x?/../sleep", "/v1/x#y",
        "/v1/chat/completions/", "/V1/chat", "/v1/x;/../../sleep", "/v1/x y", "/v1x/sleep", "/tokenize/../sleep",
        "/v1/.../x", "/v1/x\r\nHost: y",
    ],
)  # fmt: skip
async def test_odd_paths_lead_nowhere(desk: Desk, path: str) -> None:
    await desk.manager.ready()
    assert (await refused(desk, 404, path=path))["error"]["code"] == "not_found"


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "OPTIONS", "PROPFIND"])
async def test_odd_methods_lead_nowhere(desk: Desk, method: str) -> None:
    await desk.manager.ready()
    await refused(desk, 404, method=method)


def test_wait_is_set_by_the_environment() -> None:
    assert gateway_wait({}) == 600
    assert gateway_wait({"DECK_GATEWAY_WAIT": "1.5"}) == 1.5
    for text in ("soon", "0", "-1", "inf", "nan"):
        with pytest.raises(SpecError, match="DECK_GATEWAY_WAIT"):
            gateway_wait({"DECK_GATEWAY_WAIT": text})


def test_known_errors_have_a_status_of_their_own() -> None:
    """A new kind of error is not forgotten in the gateway's table."""
    from server_manager import errors, gateway_errors  # noqa: PLC0415

    codes = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ServerManagerError) and kind is not ServerManagerError
    }
    elsewhere = {"unknown_leftover", "stop_failed", "chat_failed", "context_exceeded", "telemetry"}
    elsewhere |= {"too_many_answers", "not_kept"}  # of the page's own chats
    elsewhere |= {"load_test", "unknown_load_test"}  # of load tests, which have routes of their own
    assert codes - elsewhere <= set(gateway_errors._BY_CODE)
