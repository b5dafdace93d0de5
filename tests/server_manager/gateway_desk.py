"""A client, a server and the gateway between them, for its tests: both ends are played by the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from server_manager.client import ClientSession, ServerClient
from server_manager.errors import UnknownModel
from server_manager.gateway import Gateway, GatewayRequest
from server_manager.gateway_errors import Headers
from server_manager.model_spec import ModelSpec
from server_manager.server_state import ServerState, ServerStatus
from server_manager.settings import Settings

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


@asynccontextmanager
async def open_desk(tmp_path: Path) -> AsyncIterator[Desk]:
    stub = Stub()
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    settings = Settings(
        tmp_path, tmp_path, ("false",), gateway_wait=5, gateway_silence=0.02, gateway_comment_interval=0.02
    )
    async with ClientSession() as session:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield Desk(FakeManager(settings, session, url), stub)
    server.close()
