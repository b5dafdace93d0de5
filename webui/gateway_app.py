"""``/v1`` by ASGI: between the HTTP server and ``server_manager.Gateway``.

A layer of its own, before FastAPI: each chunk of an answer passes through all layers, and FastAPI's would cost more
than the rest of its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from server_manager import Dialect, Gateway, GatewayRefusal, GatewayRequest, ServerManagerError, refuse
from webui.users import User

_JSON = ((b"content-type", b"application/json"),)
_OUTSIDE_V1 = frozenset({"/tokenize", "/detokenize"})


def is_gateway_path(path: str) -> bool:
    """Whether a path belongs to the gateway."""
    return path.startswith("/v1/") or path == "/v1" or path in _OUTSIDE_V1


class GatewayMiddleware:
    """Answers what lies below ``/v1`` and leaves the rest to the app behind it."""

    def __init__(self, app: ASGIApp, gateway: Gateway, largest_body: int) -> None:
        self._app = app
        self._gateway = gateway
        self._largest_body = largest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not is_gateway_path(scope["path"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._answer(scope, receive, AsgiReply(send))

    async def _answer(self, scope: Scope, receive: Receive, reply: AsgiReply) -> None:
        user: User = scope["state"]["user"]
        # As it was sent: what is decoded here could be decoded once more behind us.
        path = scope.get("raw_path", b"").partition(b"?")[0].decode("latin-1") or scope["path"]
        if scope["method"] in ("GET", "HEAD") and (path == "/v1/models" or path.startswith("/v1/models/")):
            await self._tell_models(path, user, reply)
            return
        try:
            body = await self._body_of(scope, receive)
        except GatewayRefusal as error:
            await refuse(reply, error, Dialect.of(path))
            return
        if body is None:
            return
        request = GatewayRequest(
            scope["method"], path, scope["query_string"].decode("latin-1"), scope["headers"], body, user.is_operator
        )
        gone = asyncio.create_task(_until_gone(receive), name="client of the gateway")
        try:
            await self._gateway.answer(request, reply, gone)
        finally:
            gone.cancel()

    async def _tell_models(self, path: str, user: User, reply: AsgiReply) -> None:
        names = self._gateway.names
        try:
            if path == "/v1/models":
                found: dict[str, Any] = {"object": "list", "data": names.cards(for_operator=user.is_operator)}
            else:
                found = names.card(unquote(path.removeprefix("/v1/models/")), for_operator=user.is_operator)
        except ServerManagerError as error:
            await refuse(reply, error, Dialect.OPENAI)
            return
        await reply.start(200, _JSON)
        await reply.write(msgspec.json.encode(found))
        await reply.end()

    async def _body_of(self, scope: Scope, receive: Receive) -> bytes | None:
        """All of it, since ``model`` may stand last; ``None`` where the client left. Raises ``GatewayRefusal``."""
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._largest_body:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > self._largest_body:
                raise self._too_large()
            if not message.get("more_body"):
                return b"".join(parts)

    def _too_large(self) -> GatewayRefusal:
        return GatewayRefusal(
            413,
            f"The request is larger than {self._largest_body / 2**20:.0f} MiB.",
            kind="invalid_request_error",
            reason="request_too_large",
        )


class AsgiReply:
    """The client's end of a request."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """The head of the answer."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    def write(self, chunk: bytes) -> Awaitable[None]:
        """Some of its body. No coroutine of its own: it is called for each token."""
        return self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """The end; without it the connection is cut."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
