"""The least that can stand between a client and a server: bytes are passed on as they come, and nobody looks at them.

    python -m benchmarks.byte_proxy --port P --to HOST:PORT

What it costs no gateway of one process in Python can do without: a read and a write of a socket for each chunk.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One of the two connections of a client."""

    def __init__(self) -> None:
        self.other: Side | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def eof_received(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


class ClientSide(Side):
    """The one that the client has opened."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._to = host, port
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        _, server_side = await asyncio.get_running_loop().create_connection(Side, *self._to)
        server_side.other, self.other = self, server_side
        for data in self.early:
            server_side.transport.write(data)


async def serve(port: int, host: str, to_port: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: ClientSide(host, to_port), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    args = parser.parse_args()
    host, _, to_port = args.to.rpartition(":")
    uvloop.run(serve(args.port, host, int(to_port)))


if __name__ == "__main__":
    main()
