"""One chat each, by the way that its client takes to the engine. They look no further into what comes than they must.

``OpenAiChat`` is a plain client of the engine, or of anything with its interface. ``PageChat`` does what a browser tab
with our page does: the requests of ``webui/static/chat.js`` with a browser's headers and cookies, frames read line by
line. ``PlaygroundChat`` does the same for vllm-playground, and ``GradioChat`` (``gradio_client.py``) for a
``gr.ChatInterface``.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import httptools
import msgspec

_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')
_TAIL = 2048
_WORDS = 90
"""Of each prompt: about 128 tokens with the chat template of Qwen2."""
_BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
    "Accept: */*",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-US,en;q=0.9",
    "Sec-Fetch-Dest: empty",
    "Sec-Fetch-Mode: cors",
    "Sec-Fetch-Site: same-origin",
)


@dataclass(frozen=True)
class Order:
    """Where to, and what is asked."""

    url: str
    model: str
    key: str
    tokens: int
    """Of each answer."""
    turns: int = 0
    """Turns of the conversation before the measured one."""

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80


@dataclass
class Seen:
    """What a chat's client saw of the answer, in seconds of ``time.perf_counter``."""

    sent_at: float = 0.0
    first_at: float = 0.0
    ended_at: float = 0.0
    largest_gap_s: float = 0.0
    """Between two arrivals of text."""
    frames: int = 0
    """Pieces of text as they were sent: chunks, lines or messages."""
    reads: int = 0
    bytes: int = 0
    tokens: int = 0
    _last_at: float = field(default=0.0, repr=False)

    def text(self, frames: int = 1) -> None:
        """Notes that text has come just now."""
        now = time.perf_counter()
        if self.first_at:
            self.largest_gap_s = max(self.largest_gap_s, now - self._last_at)
        else:
            self.first_at = now
        self._last_at = now
        self.frames += frames


class Chat(Protocol):
    """A client with one chat."""

    seen: Seen

    async def prepare(self) -> None:
        """Everything that comes before the question."""

    async def ask(self) -> None:
        """Asks and reads to the end. Raises ``RuntimeError`` where no whole answer comes."""

    async def close(self) -> None:
        """What the client does after the answer, which does not count."""


def prompt(number: int) -> str:
    """One that no other request has, so that no prefix is cached."""
    words = " ".join(f"{(number * 7919 + i * 104729) % 9973:x}" for i in range(_WORDS // 3))
    return f"{number} {words}"


def post(order: Order, path: str, body: dict[str, Any], *headers: str) -> bytes:
    """The bytes of a request."""
    data = json.dumps(body).encode()
    parts = urlsplit(order.url)
    lines = [f"POST {parts.path}{path} HTTP/1.1", f"Host: {parts.netloc}", *headers]
    lines += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
    return "\r\n".join(lines).encode() + data


def get(order: Order, path: str, *headers: str) -> bytes:
    parts = urlsplit(order.url)
    return "\r\n".join([f"GET {parts.path}{path} HTTP/1.1", f"Host: {parts.netloc}", *headers, "", ""]).encode()


class OpenAiChat(asyncio.Protocol):
    """The shortest way: it only counts chunks in the bytes and looks for the end."""

    def __init__(self, order: Order, number: int) -> None:
        self.seen = Seen()
        self._order = order
        body = {
            "model": order.model,
            "messages": [{"role": "user", "content": prompt(number)}],
            "max_tokens": order.tokens,
            "ignore_eos": True,
            "temperature": 0.8,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = [f"Authorization: Bearer {order.key}"] if order.key else []
        self._request = post(order, "/v1/chat/completions", body, *headers)
        self._tail = self._head = b""
        self._chunks = 0

    async def prepare(self) -> None:
        loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[None] = loop.create_future()
        await loop.create_connection(lambda: self, *self._order.address)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def ask(self) -> None:
        self.seen.sent_at = time.perf_counter()
        self._transport.write(self._request)
        await self._lost
        found = _USAGE.findall(self._tail)
        if not self._head.startswith(b"HTTP/1.1 200") or not self.seen.ended_at or not found:
            raise RuntimeError(f"no whole answer: {self._head[:300]!r} … {self._tail[-300:]!r}")
        self.seen.tokens = int(found[-1])

    def data_received(self, data: bytes) -> None:
        self.seen.reads += 1
        self.seen.bytes += len(data)
        self._head = self._head or data
        before = self._chunks
        self._chunks += data.count(b'"delta":')
        if self._chunks > max(before, 1):  # the first chunk only names the role
            self.seen.text(self._chunks - max(before, 1))
        self._tail = data if len(data) > _TAIL else (self._tail + data)[-_TAIL:]
        if self._tail.endswith(b"0\r\n\r\n"):
            self.seen.ended_at = time.perf_counter()
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost.set_result(None)

    async def close(self) -> None:
        self._transport.close()


LineReader = Callable[[bytes], object]


class Browser(asyncio.Protocol):
    """A kept connection of a browser. One request at a time."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._cookies: list[str] = []
        self._over: asyncio.Future[bool] | None = None
        """Whether the answer came whole."""
        self.reads = 0

    async def open(self) -> Browser:
        await asyncio.get_running_loop().create_connection(lambda: self, *self._order.address)
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def _headers(self) -> list[str]:
        parts = urlsplit(self._order.url)
        cookies = [f"Cookie: {'; '.join(self._cookies)}"] if self._cookies else []
        return [f"Origin: {parts.scheme}://{parts.netloc}", f"Referer: {self._order.url}/", *_BROWSER, *cookies]

    async def post(self, path: str, body: dict[str, Any], on_line: LineReader | None = None) -> bytes:
        """The body of the answer, or nothing where its lines are handed to ``on_line`` as they come."""
        return await self._exchange(post(self._order, path, body, *self._headers()), on_line)

    async def get(self, path: str, on_line: LineReader | None = None) -> bytes:
        return await self._exchange(get(self._order, path, *self._headers()), on_line)

    async def _exchange(self, request: bytes, on_line: LineReader | None) -> bytes:
        self._on_line = on_line
        for _ in range(2):  # a server ends a connection that was idle; a browser opens another one
            if self._transport.is_closing():
                await self.open()
            self._over = asyncio.get_running_loop().create_future()
            self._parser = httptools.HttpResponseParser(self)
            self._rest = b""
            before = self.reads
            self._transport.write(request)
            if await self._over:
                break
            if self.reads > before:
                raise RuntimeError(f"the connection broke off: {self._rest[-300:]!r}")
        else:
            raise RuntimeError("the server ends every connection")
        status = self._parser.get_status_code()
        if status >= 400:
            raise RuntimeError(f"HTTP status {status}: {self._rest[:500]!r}")
        return self._rest

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"set-cookie":
            self._cookies.append(value.split(b";")[0].decode())

    def on_body(self, data: bytes) -> None:
        self._rest += data
        if self._on_line is not None and self._parser.get_status_code() < 400:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                if line:
                    self._on_line(line)

    def on_message_complete(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(True)

    def connection_lost(self, error: Exception | None) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(False)

    def close(self) -> None:
        self._transport.close()


_SNAPSHOT_INTERVAL = 1.0
"""Seconds; as in ``webui/static/state.js``."""


class PageChat:
    """A browser tab with our page: one connection for the chat, and one that asks for the snapshot once a second."""

    def __init__(self, order: Order, number: int) -> None:
        self.seen = Seen()
        self._order = order
        self._number = number
        self._conversation = secrets.token_hex(16)

    async def prepare(self) -> None:
        self._chat = await Browser(self._order).open()
        self._other = await Browser(self._order).open()
        await self._chat.get("/")  # a browser has been given its cookies by then
        await self._other.get("/api/snapshot")
        for turn in range(self._order.turns):
            await self._question(f"Turn {turn}", 8, Seen())
        self._asking = asyncio.create_task(self._keep_asking())

    async def _keep_asking(self) -> None:
        await asyncio.sleep(self._number % 97 / 97 * _SNAPSHOT_INTERVAL)  # tabs are not in step
        while True:
            await self._other.get("/api/snapshot")
            await asyncio.sleep(_SNAPSHOT_INTERVAL)

    async def ask(self) -> None:
        await self._question(prompt(self._number), self._order.tokens, self.seen)

    async def _question(self, text: str, tokens: int, seen: Seen) -> None:
        body = {
            "conversation": self._conversation,
            "model": self._order.model,
            "text": text,
            "system_prompt": "",
            "sampling": {"temperature": 0.8, "top_p": 1.0, "repetition_penalty": 1.0, "max_tokens": tokens},
        }
        last: dict[str, Any] = {}

        def take(line: bytes) -> None:
            frame = msgspec.json.decode(line)
            if frame["type"] == "text":
                seen.text()
            last.update(frame)

        seen.sent_at = time.perf_counter()
        await self._chat.post("/api/chat", body, take)
        seen.ended_at = time.perf_counter()
        if last.get("type") != "done" or not last.get("completion_tokens"):
            raise RuntimeError(f"no whole answer: {last}")
        seen.tokens = last["completion_tokens"]
        seen.reads = self._chat.reads

    async def close(self) -> None:
        self._asking.cancel()
        self._chat.close()
        self._other.close()


class PlaygroundChat:
    """vllm-playground's page: lines of OpenAI's events. Its proxy asks for no usage, so chunks are counted."""

    def __init__(self, order: Order, number: int) -> None:
        self.seen = Seen()
        self._order = order
        self._text = prompt(number)

    async def prepare(self) -> None:
        self._browser = await Browser(self._order).open()
        await self._browser.get("/api/status")

    async def ask(self) -> None:
        messages = [{"role": "user", "content": self._text}]
        body = {"messages": messages, "temperature": 0.8, "max_tokens": self._order.tokens, "stream": True}
        ends: list[str] = []

        def take(line: bytes) -> None:
            if not line.startswith(b"data: {"):
                return
            event = msgspec.json.decode(line[6:])
            if "error" in event:
                raise RuntimeError(f"no whole answer: {event}")
            for choice in event["choices"]:
                if choice["delta"].get("content"):
                    self.seen.text()
                if choice.get("finish_reason"):
                    ends.append(choice["finish_reason"])

        self.seen.sent_at = time.perf_counter()
        await self._browser.post("/api/chat", body, take)
        self.seen.ended_at = time.perf_counter()
        if not ends:
            raise RuntimeError("no whole answer from the playground")
        self.seen.tokens = self._order.tokens if ends == ["length"] else self.seen.frames
        self.seen.reads = self._browser.reads

    async def close(self) -> None:
        self._browser.close()
