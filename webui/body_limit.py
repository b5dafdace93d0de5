"""A limit to the size of a request: its body is held in memory, and a browser can send any."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message

from server_manager import ServerManagerError

MAX_BODY_BYTES = 64 * 2**20
"""Two of the largest images, and the longest text."""


class TooLarge(ServerManagerError):
    """A request is larger than what we take."""

    code = "too_large"


class LimitedRoute(APIRoute):
    """A route that reads no more than ``MAX_BODY_BYTES``, whatever length the request says that it has."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def limited(request: Request) -> Response:
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise TooLarge(
                        f"The request is larger than {MAX_BODY_BYTES // 2**20} MiB.", "Use smaller or fewer images."
                    )

            async def receive() -> Message:
                return {"type": "http.request", "body": bytes(body), "more_body": False}

            return await handle(Request(request.scope, receive))

        return limited
