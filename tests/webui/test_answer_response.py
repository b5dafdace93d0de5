"""An answer for a client that stops to read without closing its connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any

from webui.chat_route import AnswerResponse


async def test_answer_is_given_up_where_nobody_reads_it() -> None:
    sent: list[bytes] = []
    closed = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            for number in range(1000):
                yield b"frame %d\n" % number
        finally:
            closed.set()

    async def send(message: MutableMapping[str, Any]) -> None:
        """As the web server does once its buffer is full."""
        if len(sent) == 3:
            await asyncio.Event().wait()
        sent.append(message.get("body", b""))

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    await AnswerResponse(frames(), 0.01, {})({"type": "http"}, receive, send)
    assert sent == [b"", b"frame 0\n", b"frame 1\n"]
    assert closed.is_set(), "the generator is what holds the model in use"
