"""The gateway while a request waits for its server, and every way to fail."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from gateway_desk import BODY, HEAD, STREAM, Desk, piece

from server_manager.errors import ExitedDuringStart
from server_manager.gateway import Gateway
from server_manager.server_state import ServerState, ServerStatus


async def slowly(desk: Desk) -> None:
    desk.manager.status = ServerStatus("mine", ServerState.STARTING, detail="2/4")
    await asyncio.sleep(0.1)
    await desk.manager.ready()


# Waiting


async def test_stream_that_waits_gets_signs_of_life(desk: Desk) -> None:
    desk.manager.start = lambda: slowly(desk)
    desk.stub.answer = (HEAD, piece(b"data: 1\n\n"), piece(b"data: [DONE]\n\n"), b"0\r\n\r\n")
    client = await desk.ask(STREAM)
    comments, _, events = client.body.partition(b"data: ")
    assert (client.status, client.ended) == (200, True)
    assert client.headers["content-type"].startswith("text/event-stream")
    assert comments.startswith(b": starting mine (preparing 2/4), 0 s\n\n")
    assert comments.count(b"\n\n") == comments.count(b": ") > 1
    assert events == b"1\n\ndata: [DONE]\n\n"


async def test_anthropic_stream_that_waits_gets_pings(desk: Desk) -> None:
    desk.manager.start = lambda: slowly(desk)
    desk.stub.answer = (HEAD, piece(b"event: message_start\ndata: {}\n\n"), b"0\r\n\r\n")
    client = await desk.ask(STREAM, "/v1/messages")
    assert b'event: ping\ndata: {"type": "ping"}\n\n' in client.body
    assert client.body.endswith(b"event: message_start\ndata: {}\n\n")


async def test_answer_that_is_no_stream_waits_in_silence(desk: Desk) -> None:
    desk.manager.start = lambda: slowly(desk)
    client = await desk.ask()
    assert (client.status, client.body) == (200, b"{}")


async def test_slow_first_token_keeps_the_servers_own_head(desk: Desk) -> None:
    """The server is ready: an error of its own still has its status."""
    desk.stub.answer = (0.1, b"HTTP/1.1 400 Bad\r\nContent-Length: 4\r\n\r\noops")
    client = await desk.ask(STREAM)
    assert (client.status, client.body) == (400, b"oops")


async def test_error_of_the_server_after_the_head_is_told_in_the_stream(desk: Desk) -> None:
    desk.manager.start = lambda: slowly(desk)
    error = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'
    desk.stub.answer = (b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n%b" % (len(error), error),)
    client = await desk.ask(STREAM)
    assert client.body.endswith(b"data: " + error + b"\n\ndata: [DONE]\n\n")
    assert client.ended


async def test_wait_is_bounded(desk: Desk) -> None:
    desk.manager.settings = replace(desk.manager.settings, gateway_wait=0.05)
    desk.gateway = Gateway(desk.manager)  # type: ignore[arg-type]
    desk.manager.start = lambda: asyncio.sleep(30)
    client = await desk.ask()
    assert client.status == 504
    assert "ask again" in client.json["error"]["message"]
    assert int(client.headers["retry-after"]) > 0


# Failing


async def failing() -> None:
    await asyncio.sleep(0.005)
    raise ExitedDuringStart("mine did not start.", "Take a smaller one.")


async def failing_late() -> None:
    await asyncio.sleep(0.06)
    await failing()


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_start_that_fails_soon_has_a_status(desk: Desk, body: bytes) -> None:
    """And the official clients, which ask again after a 503, are told that this would not help."""
    desk.manager.start = failing
    client = await desk.ask(body)
    assert client.status == 503
    assert client.json["error"]["message"] == "mine did not start. Take a smaller one."
    assert client.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/v1/chat/completions", b'"code":"exited_during_start"}}\n\ndata: [DONE]\n\n'),
        ("/v1/messages", b'"message":"mine did not start. Take a smaller one."}}\n\n'),
        ("/v1/responses", b'"code":"exited_during_start"}}\n\n'),
    ],
)
async def test_start_that_fails_later_is_told_in_the_stream(desk: Desk, path: str, end: bytes) -> None:
    desk.manager.start = failing_late
    client = await desk.ask(STREAM, path)
    assert (client.status, client.ended) == (200, True)
    assert client.body.endswith(end)
    assert (b"event: error\n" in client.body) == (path != "/v1/chat/completions")


async def test_stream_that_breaks_off_is_cut_after_an_error(desk: Desk) -> None:
    desk.stub.answer = (HEAD, piece(b"data: 1\n\nda"))
    client = await desk.ask(STREAM)
    assert client.body.startswith(b'data: 1\n\nda\n\ndata: {"error":{"message":"The answer broke off')
    assert b"[DONE]" not in client.body
    assert not client.ended


async def test_whole_answer_that_breaks_off_is_cut(desk: Desk) -> None:
    desk.stub.answer = (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",)
    client = await desk.ask()
    assert (client.status, client.body, client.ended) == (200, b"half", False)


async def test_stop_in_the_middle_is_told(desk: Desk) -> None:
    """A stop cancels the task that holds the lease."""
    desk.stub.answer = (HEAD, piece(b"data: 1\n\n"), 5.0)
    asking = asyncio.create_task(desk.ask(STREAM))
    while not desk.client.body:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert desk.manager.holder is not None
    desk.manager.holder.cancel()
    await asking
    assert b"mine was stopped in the middle of the answer" in desk.client.body
    assert not desk.client.ended


async def test_server_that_does_not_answer_is_502(desk: Desk) -> None:
    desk.stub.answer = ()
    client = await desk.ask()
    assert (client.status, client.json["error"]["code"]) == (502, "server_unreachable")


async def test_mistake_of_ours_is_500(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    async def mistake() -> None:
        raise RuntimeError("secret detail")

    desk.manager.start = mistake
    client = await desk.ask()
    assert client.status == 500
    assert b"secret detail" not in client.body
    assert "secret detail" in caplog.text
