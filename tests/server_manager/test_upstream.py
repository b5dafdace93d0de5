"""Connections of the gateway to servers: kept, found closed, and every way in which an answer can end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from server_manager.client import ClientSession, ServerClient
from server_manager.errors import ServerUnreachable
from server_manager.upstream import Connections

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request with the next of ``answers``; an empty one closes the connection without a word."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.connections = 0
        self.heads: list[bytes] = []
        self.after: bytes = b""
        """Sent after an answer, unasked."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(x.split(b":")[1]) for x in head.split(b"\r\n") if b"content-length" in x), 0)
                await reader.readexactly(length)
                self.heads.append(head)
                answer = self.answers.pop(0)
                if not answer:
                    return
                writer.write(answer + self.after)
                if b"length" not in answer.lower() and b"chunked" not in answer:
                    return
            await reader.read(1)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    listener = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    yield found
    listener.close()


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    found = Connections()
    yield found
    found.close()
    await asyncio.sleep(0)


async def ask(
    connections: Connections,
    server: Server,
    method: str = "POST",
    body: bytes = b"{}",
    headers: Sequence[tuple[bytes, bytes]] = (),
    prefix: str = "",
) -> tuple[int, bytes]:
    client = ServerClient(ClientSession(), server.url + prefix, "key")  # type: ignore[attr-defined]
    async with connections.pass_on(client, method, "/v1/x?q=1", headers, body) as answer:
        return answer.status, await answer.read_all()


async def test_connection_serves_the_next_request_too(server: Server, connections: Connections) -> None:
    server.answers = [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", OK]
    assert [await ask(connections, server) for _ in range(3)] == [(200, b"ok"), (200, b"abc"), (200, b"ok")]
    assert server.connections == 1


async def test_connection_that_the_server_has_closed_is_not_noticed(server: Server, connections: Connections) -> None:
    server.answers = [OK, b"", OK]
    assert [await ask(connections, server) for _ in range(2)] == [(200, b"ok")] * 2
    assert server.connections == 2


async def test_new_connection_that_is_closed_is_an_error(server: Server, connections: Connections) -> None:
    """It may have begun to work on it: asking again could do the work twice."""
    server.answers = [b"", OK]
    with pytest.raises(ServerUnreachable):
        await ask(connections, server)
    assert server.connections == 1


async def test_answer_that_says_close_is_not_kept(server: Server, connections: Connections) -> None:
    server.answers = [OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK]
    assert [await ask(connections, server) for _ in range(2)] == [(200, b"ok")] * 2
    assert server.connections == 2


async def test_what_comes_unasked_is_no_answer(server: Server, connections: Connections) -> None:
    server.answers, server.after = [OK, OK], b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    assert await ask(connections, server) == (200, b"ok")
    await asyncio.sleep(0.02)
    server.after = b""
    assert await ask(connections, server) == (200, b"ok")


async def test_answer_that_ends_with_the_connection(server: Server, connections: Connections) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\n\r\nall of it"]
    assert await ask(connections, server) == (200, b"all of it")


async def test_head_and_empty_answers_have_no_body(server: Server, connections: Connections) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"]
    assert await ask(connections, server, "HEAD", b"") == (200, b"")
    assert b"content-length" not in server.heads[0]
    server.answers = [b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"]
    assert await ask(connections, server, "DELETE", b"") == (204, b"")


async def test_notes_on_the_way_are_passed_over(server: Server, connections: Connections) -> None:
    server.answers = [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK]
    assert await ask(connections, server) == (200, b"ok")


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
async def test_what_is_not_http_is_an_error(server: Server, connections: Connections, answer: bytes) -> None:
    server.answers = [answer]
    with pytest.raises(ServerUnreachable):
        await ask(connections, server)


async def test_nobody_listens(server: Server, connections: Connections) -> None:
    server.url = "http://127.0.0.1:9"  # type: ignore[attr-defined]
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"):
        await ask(connections, server)


async def test_request_has_the_servers_key_and_its_own_path(server: Server, connections: Connections) -> None:
    server.answers = [OK]
    await ask(connections, server, headers=[(b"x-trace", b"\xe9")], prefix="/behind")
    lines = server.heads[0].split(b"\r\n")
    assert lines[0] == b"POST /behind/v1/x?q=1 HTTP/1.1"
    assert {b"x-trace: \xe9", b"Authorization: Bearer key", b"content-length: 2"} <= set(lines)


async def test_large_bodies_and_a_slow_reader(server: Server, connections: Connections) -> None:
    """What the client does not take is not gathered here."""
    large = bytes(range(256)) * 40_000
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(large), large)]
    client = ServerClient(ClientSession(), server.url)  # type: ignore[attr-defined]
    async with connections.pass_on(client, "POST", "/v1/x", (), large) as answer:
        await asyncio.sleep(0.05)
        first = await answer.read()
        assert len(first) < len(large) / 2
        assert first + await answer.read_all() == large
