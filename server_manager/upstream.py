"""A request passed on to a server as it is, and its answer as it comes: for the gateway and the chat.

On bare connections with httptools, the parser of our own HTTP server, instead of aiohttp: thousands of chunks a second
pass here, each on its own way from the socket to the client, and what a client library does around each of them costs
as much as all the rest. Only what these two need is here: no redirects, no cookies, no decompression, no proxies.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import SplitResult, unquote, urlsplit

import httptools

from server_manager.client import ServerClient
from server_manager.errors import ServerUnreachable

_CONNECT_S = 5.0
_IDLE_S = 4.0
"""How long a connection is kept for the next request; vLLM closes it after 5 s."""
_MOST_UNREAD = 2**18
"""Bytes that a slow client may leave waiting here, before the server is made to wait too."""

Headers = Sequence[tuple[bytes, bytes]]


class Connections:
    """Open connections to servers, for the next request. One for the whole app."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str], deque[_Connection]] = {}

    def close(self) -> None:
        """Closes those that are idle."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    @asynccontextmanager
    async def pass_on(
        self, client: ServerClient, method: str, target: str, headers: Headers, body: bytes
    ) -> AsyncIterator[UpstreamAnswer]:
        """Sends a request and gives the answer once its head is there; leaving the block early aborts it in vLLM.

        ``target`` is the path with its query, already encoded. Raises ``ServerUnreachable``.
        """
        parts = urlsplit(client.base_url)
        key = (parts.scheme, parts.netloc)
        request = _request_bytes(parts, client, method, target, headers, body)
        try:
            connection = await self._answering(key, parts, method, request)
        except (OSError, TimeoutError) as error:
            raise client.unreachable(error) from error
        try:
            yield UpstreamAnswer(connection)
        finally:
            if connection.reusable:
                self._keep(key, connection)
            else:
                connection.close()

    def _keep(self, key: tuple[str, str], connection: _Connection) -> None:
        idle = self._idle.setdefault(key, deque())
        idle.append(connection)

        def forget() -> None:
            if connection in idle:
                idle.remove(connection)
            connection.close()

        connection.rest(forget)

    async def _answering(self, key: tuple[str, str], parts: SplitResult, method: str, request: bytes) -> _Connection:
        """A connection with the head of the answer to ``request``. Raises ``OSError`` or ``TimeoutError``."""
        while idle := self._idle.get(key):
            connection = idle.pop()
            if connection.lost:
                continue
            try:
                await connection.ask(method, request)
            except ConnectionError:
                if connection.heard:
                    raise
                continue  # the server closed it in the same moment, and has not seen the request
            except BaseException:
                connection.close()
                raise
            return connection
        connection = await _connect(parts)
        try:
            await connection.ask(method, request)
        except BaseException:
            connection.close()
            raise
        return connection


class UpstreamAnswer:
    """Status and headers as the server sent them; the body as it comes, not decompressed."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self.status = connection.status
        self.headers: Headers = connection.headers
        self.read = connection.read
        """All of the body that has come, empty at its end. Raises ``ServerUnreachable`` where it breaks off."""

        self.listen = connection.listen
        """Has a function called whenever more of the body has come, and at its end; for ``take``."""
        self.take = connection.take
        """What of the body has come, without waiting: empty where nothing new has."""

    @property
    def over(self) -> bool:
        """Whether nothing more will come, be it since it is whole or since the connection broke."""
        return self._connection.over

    async def read_all(self) -> bytes:
        """The rest of the body."""
        parts = []
        while part := await self.read():
            parts.append(part)
        return b"".join(parts)


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._listener: Callable[[], None] | None = None
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self.lost: Exception | None = None
        self._begin("")

    def _begin(self, method: str) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._has_body = method != "HEAD"
        self._chunks: list[bytes] = []
        self._unread = 0
        self._head_complete = self._complete = self._until_eof = self._keeps_alive = False
        self.heard = False
        """Whether anything of the answer has come."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    # What the gateway asks for

    async def ask(self, method: str, request: bytes) -> None:
        """Sends a request and waits for the head of its answer. Raises ``ConnectionError``."""
        self._stop_timer()
        self._begin(method)
        self._transport.write(request)
        while not self._head_complete:
            if self.lost is not None:
                raise self.lost
            await self._news()

    async def read(self) -> bytes:
        """See ``UpstreamAnswer.read``."""
        while not self._chunks:
            if self._complete:
                return b""
            if self.lost is not None:
                raise ServerUnreachable(
                    "The answer broke off: the server closed the connection.", reason=str(self.lost)
                )
            await self._news()
        return self.take()

    def take(self) -> bytes:
        """See ``UpstreamAnswer.take``."""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._unread = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    def listen(self, listener: Callable[[], None]) -> None:
        """See ``UpstreamAnswer.listen``."""
        self._listener = listener

    @property
    def over(self) -> bool:
        """See ``UpstreamAnswer.over``."""
        return self._complete or self.lost is not None

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end and the connection stays open."""
        return self._complete and not self._chunks and self.lost is None and self._keeps_alive

    def rest(self, forget: Callable[[], None]) -> None:
        """Keeps it open for a while; then calls ``forget``."""
        self._listener = None
        self._timer = self._loop.call_later(_IDLE_S, forget)

    def close(self) -> None:
        """Closes it, which aborts a request that is not answered yet."""
        self._stop_timer()
        self._listener = None
        self.lost = self.lost or ConnectionResetError("closed")
        self._transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _news(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._listener is not None:
            self._listener()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._timer is not None:  # nobody has asked: whatever it is, it must not become the next one's answer
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.lost = ConnectionError(f"it sent what is not HTTP: {error}")
            self._transport.abort()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        if self._until_eof and error is None:
            self._complete = True
        self.lost = self.lost or ConnectionResetError(str(error) if error else "it closed the connection")
        self._wake()

    # What the parser tells

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._complete:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._complete:  # one more answer, which nobody has asked for: this connection cannot be trusted
            self._keeps_alive = False
            return
        self.status = self._parser.get_status_code()
        if self.status < 200:  # only a note on the way
            return
        self._keeps_alive = self._parser.should_keep_alive()
        names = {name.lower() for name, _ in self.headers}
        self._until_eof = not names & {b"content-length", b"transfer-encoding"}
        self._head_complete = True
        if not self._has_body:  # the parser would wait for what the length promises
            self._complete, self._keeps_alive = True, False

    def on_body(self, chunk: bytes) -> None:
        if self._complete:
            return
        self._chunks.append(chunk)
        self._unread += len(chunk)
        if self._unread > _MOST_UNREAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.status < 200:
            self.headers = []
        else:
            self._complete = True


async def _connect(parts: SplitResult) -> _Connection:
    secure = parts.scheme == "https"
    async with asyncio.timeout(_CONNECT_S):
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection, parts.hostname or "", parts.port or (443 if secure else 80), ssl=secure or None
        )
    return connection


def _request_bytes(
    parts: SplitResult, client: ServerClient, method: str, target: str, headers: Headers, body: bytes
) -> bytes:
    host = parts.netloc.rpartition("@")[2]
    lines = [f"{method} {parts.path}{target} HTTP/1.1\r\nhost: {host}\r\n".encode("latin-1")]
    lines += [b"%b: %b\r\n" % header for header in headers]
    own = dict(client.headers)
    if parts.username is not None:  # of an attached server: http://NAME:PASSWORD@HOST
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        own.setdefault("Authorization", f"Basic {base64.b64encode(credentials).decode()}")
    lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in own.items()]
    if body or method in ("POST", "PUT", "PATCH"):
        lines.append(b"content-length: %d\r\n" % len(body))
    return b"".join((*lines, b"\r\n", body))
