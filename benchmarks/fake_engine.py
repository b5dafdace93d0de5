"""A stand-in for ``vllm serve`` that costs next to nothing, to measure what stands in front of it.

    python -m benchmarks.fake_engine --port P [--step-ms 5]

As vLLM it works in steps: in each one every open answer gets one token, as an event of vLLM's size in one write.
Answers are ready-made bytes; only ``/health``, ``/v1/models`` and streamed chats exist.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
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


async def serve(port: int, step_s: float) -> None:
    answers: dict[Connection, int] = {}
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Connection(answers), "127.0.0.1", port)
    due = loop.time()
    while True:
        due = max(due + step_s, loop.time())
        await asyncio.sleep(due - loop.time())
        for connection, made in list(answers.items()):
            if made + 1 < connection.asked:
                answers[connection] = made + 1
                connection.transport.write(_TOKEN)
            else:
                del answers[connection]
                usage = {"prompt_tokens": 128, "total_tokens": 128 + made + 1, "completion_tokens": made + 1}
                last = _choice({"content": "."}, "length") + _event({"choices": [], "usage": usage})
                connection.transport.write(last + _DONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-ms", type=float, default=5.0)
    args = parser.parse_args()
    uvloop.run(serve(args.port, args.step_ms / 1000))


if __name__ == "__main__":
    main()
