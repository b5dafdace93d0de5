"""The gateway between a client and one server, both played by the test: every byte, and every way to fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server_manager.client import ClientSession, ServerClient
from server_manager.errors import ExitedDuringStart, ServerManagerError, SpecError, UnknownModel
from server_manager.gateway import Gateway, GatewayRequest
from server_manager.gateway_errors import Headers
from server_manager.model_spec import ModelSpec
from server_manager.server_state import ServerState, ServerStatus
from server_manager.settings import Settings, gateway_wait

BODY = b'{"model":"mine",  "n":1.50e0}'
STREAM = b'{"model":"mine","stream":true}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Stub:
    """A server on a bare socket: keeps what it is sent, answers what the test says."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.answer: Sequence[bytes | float] = (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",)
        """Bytes to send and seconds to wait; the connection is closed after them."""
        self.client_left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if b"content-length" in x), 0)
            self.requests.append(head + await reader.readexactly(length))
            for part in self.answer:
                if isinstance(part, bytes):
                    writer.write(part)
                    await writer.drain()
                elif not await self._wait(reader, part):
                    return
        finally:
            writer.close()

    async def _wait(self, reader: asyncio.StreamReader, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await reader.read(1)
        except TimeoutError:
            return True
        self.client_left.set()
        return False


class FakeManager:
    """One server, ``mine``, which answers to ``theirs`` and ``alias``; its start is what the test says."""

    def __init__(self, settings: Settings, session: ClientSession, url: str) -> None:
        self.settings = settings
        self.status = ServerStatus("mine")
        self.client = ServerClient(session, url, "server-key")
        self.start: Callable[[], Any] = self.ready
        self.leases = 0
        self.holder: asyncio.Task[Any] | None = None
        spec = ModelSpec("mine", "org/model", {"served-model-name": ["theirs", "alias"], "lora-modules": "tune=/x"})
        self.catalogue = SimpleNamespace(specs=lambda: (spec,), get=self._get)
        self._spec = spec

    def _get(self, name: str) -> ModelSpec:
        if name != "mine":
            raise UnknownModel(f"There is no model {name!r}.")
        return self._spec

    async def ready(self) -> None:
        self.status = replace(
            self.status,
            state=ServerState.READY,
            served_model_name="theirs",
            served_model_names=("theirs", "alias"),
            max_model_len=2048,
        )

    def names(self) -> tuple[str, ...]:
        return ("mine",)

    def live(self) -> dict[str, Any]:
        return {} if self.status.state is ServerState.STOPPED else {"mine": self.server("mine")}

    def statuses(self) -> dict[str, ServerStatus]:
        return {"mine": self.status}

    def server(self, name: str) -> Any:
        return SimpleNamespace(name="mine", status=self.status, client=lambda: self.client)

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Any]:
        await self.start()
        self.leases += 1
        self.holder = asyncio.current_task()
        try:
            yield self.server(name)
        finally:
            self.leases -= 1


class Client:
    """Takes the answer."""

    def __init__(self) -> None:
        self.started = self.ended = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def start(self, status: int, headers: Headers) -> None:
        assert not self.started
        self.started, self.status = True, status
        self.headers = {name.decode().lower(): value.decode() for name, value in headers}

    async def write(self, chunk: bytes) -> None:
        assert self.started
        assert not self.ended
        self.body += chunk

    async def end(self) -> None:
        self.ended = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Desk:
    """All of it together."""

    def __init__(self, manager: FakeManager, stub: Stub) -> None:
        self.manager, self.stub = manager, stub
        self.gateway = Gateway(manager)  # type: ignore[arg-type]
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.client = Client()

    async def ask(
        self,
        body: bytes = BODY,
        path: str = "/v1/chat/completions",
        headers: Sequence[tuple[str, str]] = (("content-type", "application/json"),),
        *,
        method: str = "POST",
        operator: bool = True,
        query: str = "",
    ) -> Client:
        sent = [(name.encode(), value.encode()) for name, value in headers]
        await self.gateway.answer(GatewayRequest(method, path, query, sent, body, operator), self.client, self.gone)
        assert self.manager.leases == 0
        return self.client


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    stub = Stub()
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    settings = Settings(
        tmp_path, tmp_path, ("false",), gateway_wait=5, gateway_silence=0.02, gateway_comment_interval=0.02
    )
    async with ClientSession() as session:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield Desk(FakeManager(settings, session, url), stub)
    server.close()


async def slowly(desk: Desk) -> None:
    desk.manager.status = ServerStatus("mine", ServerState.STARTING, detail="2/4")
    await asyncio.sleep(0.1)
    await desk.manager.ready()


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
    assert codes - elsewhere <= set(gateway_errors._BY_CODE)
