"""A stand-in for ``vllm serve`` that costs next to nothing, to measure what stands in front of it.

    python -m benchmarks.fake_engine --port P [--step-ms 5] [--work-us 0]

As vLLM it works in steps: in each one every open answer gets one token, as an event of vLLM's size in one write.
Answers are ready-made bytes; only ``/health``, ``/v1/models`` and streamed chats exist.

With ``--work-us`` each chunk costs so much processor time in the one process that also writes it, as in vLLM's API
server. Steps come at their pace all the same; what an answer has not been sent when it is looked after the next time
goes out in one chunk, as in vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from typing import cast

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_TOKENS = re.compile(rb'"max_tokens": ?(\d+)')
_HEAD = {"id": "chatcmpl-bdfe385843cb90a8", "object": "chat.completion.chunk", "created": 1795344731, "model": "fake"}


def _event(data: dict[str, object]) -> bytes:
    event = b"data: " + json.dumps({**_HEAD, **data}, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _choice(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _event({"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})


_START = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n" + _choice({"role": "assistant", "content": ""})
)
_TOKEN = _choice({"content": " Paris"})
_DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, answers: dict[Connection, int]) -> None:
        self._answers = answers
        self._input = b""
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._answers.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._input += data
        head, separator, body = self._input.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not separator or len(body) < int(length[1] if length else 0):
            return
        self._input = b""
        path = head.split(b" ", 2)[1]
        if path == b"/v1/chat/completions":
            found = _TOKENS.search(body)
            self.asked = int(found[1]) if found else 16
            self._answers[self] = 0
            self.transport.write(_START)
            return
        document = {"object": "list", "data": [{"id": "fake", "object": "model", "max_model_len": 32768}]}
        answer = json.dumps(document).encode() if path == b"/v1/models" else b""
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))


class Engine:
    """The steps, and what is to be written for each answer."""

    def __init__(self, work_s: float) -> None:
        self.answers: dict[Connection, int] = {}
        self._due: dict[Connection, int] = {}
        self._work_s = work_s

    def step(self) -> None:
        """One more token for every answer."""
        loop = asyncio.get_running_loop()
        for connection, made in list(self.answers.items()):
            if made < connection.asked:
                self.answers[connection] = made + 1
                if connection not in self._due:
                    loop.call_soon(self._write, connection)
                self._due[connection] = self._due.get(connection, 0) + 1

    def _write(self, connection: Connection) -> None:
        tokens, made = self._due.pop(connection), self.answers.get(connection)
        if self._work_s:
            until = time.thread_time() + self._work_s  # of the processor: not what others take meanwhile
            while time.thread_time() < until:
                pass
        if made is None:  # it has gone
            return
        if made < connection.asked:
            connection.transport.write(_TOKEN if tokens == 1 else _choice({"content": " Paris" * tokens}))
            return
        del self.answers[connection]
        usage = {"prompt_tokens": 128, "total_tokens": 128 + made, "completion_tokens": made}
        last = _choice({"content": "." * tokens}, "length") + _event({"choices": [], "usage": usage})
        connection.transport.write(last + _DONE)


async def serve(port: int, step_s: float, work_s: float) -> None:
    engine = Engine(work_s)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Connection(engine.answers), "127.0.0.1", port)
    due = loop.time()
    while True:
        await asyncio.sleep(max(0.0, due - loop.time()))
        while due <= loop.time():  # the engine has gone on while its answers were written
            engine.step()
            due += step_s


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-ms", type=float, default=5.0)
    parser.add_argument("--work-us", type=float, default=0.0)
    args = parser.parse_args()
    uvloop.run(serve(args.port, args.step_ms / 1000, args.work_us / 1e6))


if __name__ == "__main__":
    main()
