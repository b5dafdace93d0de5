"""A request passed on to a server as it is, and its answer as it comes: for the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import yarl

from server_manager.client import ServerClient
from server_manager.errors import ServerUnreachable

# No limit on the silence of a server: a long queue before the first token is no fault, and a server that dies closes
# its connections.
_PATIENT = aiohttp.ClientTimeout(total=None, sock_connect=5)
_READ_BYTES = 2**18
_OURS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers that aiohttp would add; only the client's own go to the server."""

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """Status and headers as the server sent them; the body as it comes, not decompressed."""

    status: int
    headers: Headers
    _response: aiohttp.ClientResponse

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, each time all that has come. Raises ``ServerUnreachable`` where it breaks off."""
        content = self._response.content
        try:
            while chunk := await content.readany():
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerUnreachable(
                "The answer broke off: the server closed the connection.", reason=str(error)
            ) from error


@asynccontextmanager
async def pass_on(
    client: ServerClient, method: str, target: str, headers: Headers, body: bytes
) -> AsyncIterator[UpstreamAnswer]:
    """Sends a request and gives the answer once its head is there; leaving the block early aborts it in vLLM.

    ``target`` is the path with its query, already encoded. Raises ``ServerUnreachable``.
    """
    sent = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    sent += client.headers.items()
    try:
        response = await client.session.http.request(
            method,
            yarl.URL(client.base_url + target, encoded=True),
            headers=sent,
            skip_auto_headers=_OURS,
            data=body or None,
            timeout=_PATIENT,
            allow_redirects=False,
            auto_decompress=False,
            read_bufsize=_READ_BYTES,
        )
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise client.unreachable(error) from error
    try:
        yield UpstreamAnswer(response.status, response.raw_headers, response)
    finally:
        # Gives the connection back where the answer was read to its end, and closes it otherwise.
        response.close() if not response.content.at_eof() else response.release()
