"""The gateway: one ``/v1`` for all models. It finds the server, has it started or woken, and passes bytes through.

The request's ``model`` picks the server, which is started or woken while the request waits. A request that streams is
left in silence for some seconds first, so that what fails soon has its proper HTTP status. Then it gets the head of
its answer and a comment every now and then: clients and proxies give up on connections that say nothing. From there
on an error can only be told in the stream.

Each request has two tasks: one waits for the server and passes the answer on, and holds the lease on the server (a
stop cancels it); the other, the caller's own, watches whether the client is still there.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from server_manager.errors import ServerManagerError, ServerUnreachable
from server_manager.gateway_body import read_asked, with_model
from server_manager.gateway_errors import (
    Dialect,
    GatewayRefusal,
    Headers,
    end_of_stream,
    error_document,
    error_event,
    error_headers,
    sign_of_life,
    status_of,
)
from server_manager.gateway_headers import STREAM_HEADERS, answer_headers, header, is_readable_stream, request_headers
from server_manager.manager import Server, ServerManager
from server_manager.model_names import ModelNames, name_to_send
from server_manager.server_state import ServerState, ServerStatus
from server_manager.start_report import phase_line
from server_manager.upstream import Connections, UpstreamAnswer

log = logging.getLogger(__name__)

_PATH = re.compile(r"/v1(/(?!\.+(/|$))[A-Za-z0-9._~:@-]+)+|/tokenize|/detokenize")
"""What is passed on: nothing that two readers could read in two ways (dots, escapes, empty parts), and of what vLLM
has outside of /v1 only what clients use; its routes for sleep, caches and the like are not for them."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_FOR_OPERATORS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})


@dataclass(frozen=True, slots=True)
class GatewayRequest:
    """What a client sent."""

    method: str
    path: str
    """As it was sent, not decoded."""
    query: str
    headers: Headers
    body: bytes
    is_operator: bool
    """Whether the sender may have servers started."""


class Reply(Protocol):
    """The client's end. Left without ``end``, the connection is cut, so that nobody takes a torso for the whole."""

    started: bool

    async def start(self, status: int, headers: Headers) -> None: ...
    def write(self, chunk: bytes) -> Awaitable[None]: ...
    async def end(self) -> None: ...


class _Call:
    """One request on its way."""

    def __init__(self, request: GatewayRequest, reply: Reply) -> None:
        self.request = request
        self.reply = reply
        self.dialect = Dialect.of(request.path)
        self.content_type = header(request.headers, b"content-type")
        asked = read_asked(self.content_type, request.body)
        self.model, self.streams = asked.model, asked.stream
        self.name = ""
        self.leased = False
        """Whether it has its server, ready."""
        self.answered = False
        """Whether the server's own answer has begun."""
        self.readable = False
        """Whether the answer is a stream of events that one more can be added to."""


class Gateway:
    """Answers every request below ``/v1``."""

    def __init__(self, manager: ServerManager) -> None:
        self._manager = manager
        self._settings = manager.settings
        self._connections = Connections()
        self.names = ModelNames(manager)

    def close(self) -> None:
        """Closes connections that are kept for later requests."""
        self._connections.close()

    async def answer(self, request: GatewayRequest, reply: Reply, gone: asyncio.Future[Any]) -> None:
        """Answers one request, whatever happens; ``gone`` is done when the client has left. Raises nothing."""
        try:
            call = self._call(request, reply)
        except ServerManagerError as error:
            await refuse(reply, error, Dialect.of(request.path))
            return
        work = asyncio.create_task(self._pass_through(call), name=f"gateway to {call.name}")
        try:
            await self._attend(call, work, gone)
            if not gone.done():
                await self._conclude(call, work)
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
            if not work.cancelled():
                work.exception()  # was told, or there is nobody left to tell

    # From the request to the server

    def _call(self, request: GatewayRequest, reply: Reply) -> _Call:
        if not _PATH.fullmatch(request.path) or request.method not in _METHODS:
            raise GatewayRefusal(
                404,
                f"There is no {request.method} {request.path[:200]}.",
                "See /docs.",
                kind="invalid_request_error",
                reason="not_found",
            )
        if request.path in _FOR_OPERATORS and not request.is_operator:
            raise _not_permitted("Only an operator may change the adapters of a server.", "")
        call = _Call(request, reply)
        if call.model is not None:
            call.name = self.names.find(call.model)
        elif only := self.names.the_only_one():
            call.name = only  # as vLLM itself takes a request without a model for its own
        else:
            known = ", ".join(self._manager.names())
            raise GatewayRefusal(
                400,
                "The request names no model.",
                f"Send “model”, one of: {known}.",
                kind="invalid_request_error",
                reason="model_required",
                param="model",
            )
        if not request.is_operator and not self._manager.server(call.name).status.can_be_asked:
            raise _not_permitted(f"{call.name} is not up.", "Ask an operator to start it, or pick one that is.")
        return call

    async def _pass_through(self, call: _Call) -> None:
        async with AsyncExitStack() as stack:
            server = await self._leased(call, stack)
            call.leased = True
            request, name = call.request, name_to_send(call.model, server.status)
            body = request.body if name is None else with_model(call.content_type, request.body, name)
            target = f"{request.path}?{request.query}" if request.query else request.path
            headers = request_headers(request.headers)
            answering = self._connections.pass_on(server.client(), request.method, target, headers, body)
            await self._stream(call, await stack.enter_async_context(answering))

    async def _leased(self, call: _Call, stack: AsyncExitStack) -> Server:
        try:
            async with asyncio.timeout(self._settings.gateway_wait):
                return await stack.enter_async_context(self._manager.lease(call.name))
        except TimeoutError:
            status = self._manager.server(call.name).status
            raise GatewayRefusal(
                504,
                f"{call.name} was not ready within {self._settings.gateway_wait:.0f} s ({_doing(status)}).",
                "The start goes on; ask again.",
                reason="start_timeout",
                retry_after=30,
            ) from None

    async def _stream(self, call: _Call, answer: UpstreamAnswer) -> None:
        reply = call.reply
        call.answered = True
        call.readable = is_readable_stream(answer.headers)
        if not reply.started:
            await reply.start(answer.status, answer_headers(answer.headers))
        elif not call.readable or answer.status != 200:
            # Too late for a status: vLLM's own error goes into the stream.
            document = await answer.read_all()
            await reply.write(error_event(document, call.dialect) + end_of_stream(call.dialect))
            await reply.end()
            return
        read, write = answer.read, reply.write
        while chunk := await read():
            await write(chunk)
        await reply.end()

    # The client's side

    async def _attend(self, call: _Call, work: asyncio.Task[None], gone: asyncio.Future[Any]) -> None:
        """Until the work is done or the client has gone; meanwhile a sign of life for one that waits for a stream."""
        began = time.monotonic()
        pause: float | None = self._settings.gateway_silence if call.streams else None
        while not work.done() and not gone.done():
            await asyncio.wait({work, gone}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if call.answered:
                pause = None
            if pause is None or work.done() or gone.done():
                continue
            if not call.reply.started:
                if call.leased:  # it is vLLM that takes its time: its answer shall have its own head
                    continue
                await call.reply.start(200, STREAM_HEADERS)
            doing = "waiting for the first token" if call.leased else _doing(self._manager.server(call.name).status)
            waited = time.monotonic() - began
            await call.reply.write(sign_of_life(f"{doing}, {waited:.0f} s", call.dialect))
            pause = self._settings.gateway_comment_interval

    async def _conclude(self, call: _Call, work: asyncio.Task[None]) -> None:
        """Tells the client what went wrong, in the way that is still open."""
        error: ServerManagerError
        if work.cancelled():
            error = ServerUnreachable(
                f"{call.name} was stopped in the middle of the answer, perhaps to make room for another.", "Ask again."
            )
        elif (found := work.exception()) is None:
            return
        elif isinstance(found, ServerManagerError):
            error = found
        else:
            log.error("the gateway failed unexpectedly at %s", call.request.path, exc_info=found)
            error = GatewayRefusal(500, "vLLM Deck made a mistake.", "Its log says which.")
        log.warning("%s: %s %s: %s", call.name, call.request.method, call.request.path, error)
        if not call.reply.started:
            await refuse(call.reply, error, call.dialect)
        elif not call.answered:
            document = error_document(error, call.dialect)
            await call.reply.write(error_event(document, call.dialect) + end_of_stream(call.dialect))
            await call.reply.end()
        elif call.readable:
            # The event for clients that know such; and the connection is cut after it, for all others.
            await call.reply.write(b"\n\n" + error_event(error_document(error, call.dialect), call.dialect))


async def refuse(reply: Reply, error: ServerManagerError, dialect: Dialect) -> None:
    """Answers with an error of our own."""
    document = error_document(error, dialect)
    headers = [*error_headers(error), (b"content-length", str(len(document)).encode())]
    await reply.start(status_of(error), headers)
    await reply.write(document)
    await reply.end()


def _not_permitted(message: str, next_step: str) -> GatewayRefusal:
    return GatewayRefusal(403, message, next_step, kind="permission_error", reason="not_permitted")


def _doing(status: ServerStatus) -> str:
    """ "starting Qwen2 (loading weights 2/4, about 12 s left)"."""
    queue = status.waiting.words if status.waiting else ""
    if status.state is ServerState.STARTING:
        return f"starting {status.name} ({queue or phase_line(msgspec.to_builtins(status))})"
    if status.state is ServerState.ASLEEP:
        return f"waking {status.name}" + (f" ({queue})" if queue else "")
    return f"waiting for {status.name}, which is {status.state}"
