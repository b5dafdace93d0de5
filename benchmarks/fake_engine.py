"""A stand-in for ``vllm serve`` that costs next to nothing, to measure what stands in front of it.

    python -m benchmarks.fake_engine --port P [--step-ms 5 | --rates 1:520,32:9500,128:29000] [--work-us 0]

As vLLM it works in steps: in each one every open answer gets one token, as an event of vLLM's size in one write. A step
takes the same time always, or as long as it takes an engine that makes so many tokens per second (of all answers
together) with so many open answers; between the points of ``--rates`` that is interpolated.

With ``--work-us`` each chunk costs so much processor time in the one process that also writes it, as in vLLM's API
server. Steps come at their pace all the same; what an answer has not been sent when it is looked after the next time
goes out in one chunk, as in vLLM.

Answers are ready-made bytes, or with ``--text`` the Markdown of a file over and over, between "Answer N." and "End N."
so that a page can be watched for them. Of a request's fields it knows ``max_tokens``, ``stream_interval`` and
``continuous_usage_stats``. Only ``/health``, ``/v1/models``, streamed chats and ``/answers`` exist; the last says how
many chats were asked for, how long the last one's first token took, and when a client was last seen to go in the middle
of an answer (Unix time).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_TOKENS = re.compile(rb'"max_tokens": ?(\d+)')
_INTERVAL = re.compile(rb'"stream_interval": ?(\d+)')
_CONTINUOUS = re.compile(rb'"continuous_usage_stats": ?true')
_PIECE = re.compile(r"\s*\S{1,5}")
"""What counts as a token of a text: in English one has about four letters."""
_HEAD = {"id": "chatcmpl-bdfe385843cb90a8", "object": "chat.completion.chunk", "created": 1795344731, "model": "fake"}
_PROMPT_TOKENS = 128
_TICK_S = 0.001


@dataclass(frozen=True)
class Curve:
    """A figure by the number of open answers."""

    points: tuple[tuple[int, float], ...]

    @classmethod
    def parse(cls, text: str) -> Curve:
        """Of ``1:520,32:9500``; one number alone holds for any number of answers. Raises ``ValueError``."""
        if ":" not in text:
            return cls(((1, float(text)),))
        pairs = (part.split(":") for part in text.split(","))
        return cls(tuple(sorted((int(count), float(value)) for count, value in pairs)))

    def at(self, count: int) -> float:
        """A straight line between two points where both axes are logarithmic; flat outside."""
        if count <= self.points[0][0]:
            return self.points[0][1]
        for (low, below), (high, above) in pairwise(self.points):
            if count <= high:
                share = math.log(count / low) / math.log(high / low)
                return below * (above / below) ** share
        return self.points[-1][1]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(data: dict[str, object]) -> bytes:
    return _chunk(b"data: " + json.dumps({**_HEAD, **data}, separators=(",", ":")).encode() + b"\n\n")


def _choice(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
    return _event({"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], **more})


_START = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n" + _choice({"role": "assistant", "content": ""})
)
_TOKEN = _choice({"content": " Paris"})
_DONE = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _usage(made: int) -> dict[str, int]:
    return {"prompt_tokens": _PROMPT_TOKENS, "total_tokens": _PROMPT_TOKENS + made, "completion_tokens": made}


class Answer:
    """One answer that is being made."""

    def __init__(self, connection: Connection, body: bytes, number: int, pieces: list[str], due: float) -> None:
        asked, interval = _TOKENS.search(body), _INTERVAL.search(body)
        self.wanted = int(asked[1]) if asked else 16
        self.asked_at = time.perf_counter()
        self.due = due
        """On the loop's clock: when its prompt will have been read."""
        self.queued = False
        """Whether it is to be looked after."""
        self._interval = int(interval[1]) if interval else 1
        self._continuous = _CONTINUOUS.search(body) is not None
        self._transport = connection.transport
        self._number = number
        self._pieces = pieces
        self._made = self._sent = 0

    def step(self) -> bool:
        """Makes a token; whether there is something to be sent then."""
        if self._made == self.wanted:
            return False
        self._made += 1
        return self._made in (1, self.wanted) or self._made % self._interval == 0

    def send(self) -> tuple[bool, bool]:
        """Sends what has been made; whether that was the first of it, and whether the last."""
        first, last = self._sent == 0, self._made == self.wanted
        if self._pieces or self._continuous or self._made - self._sent > 1 or last:
            more: dict[str, object] = {"usage": _usage(self._made)} if self._continuous else {}
            event = _choice({"content": self._text()}, "length" if last else None, **more)
        else:
            event = _TOKEN
        if last:
            event += _event({"choices": [], "usage": _usage(self._made)}) + _DONE
        self._transport.write(_START + event if first else event)
        self._sent = self._made
        return first, last

    def _text(self) -> str:
        if not self._pieces:
            return " Paris" * (self._made - self._sent)
        opening = f"Answer {self._number}. " if self._sent == 0 else ""
        closing = f"\n\nEnd {self._number}." if self._made == self.wanted else ""
        text = "".join(self._pieces[i % len(self._pieces)] for i in range(self._sent, self._made))
        return opening + text + closing


class Engine:
    """The steps, and what is to be written for each answer."""

    def __init__(self, rates: Curve, first_token_ms: Curve, work_s: float, text: str) -> None:
        """``rates`` in tokens per second of all answers together; ``first_token_ms`` after a request, in order."""
        self._rates = rates
        self._first_token_ms = first_token_ms
        self._work_s = work_s
        self._pieces = _PIECE.findall(text)
        self._open: dict[Connection, Answer] = {}
        self._waiting = asyncio.Event()
        self._count = 0
        self._first_token_s = 0.0
        self._dropped_at = 0.0

    def ask(self, connection: Connection, body: bytes) -> None:
        self._count += 1
        wait_s = self._first_token_ms.at(len(self._open) + 1) / 1000
        due = asyncio.get_running_loop().time() + wait_s
        self._open[connection] = Answer(connection, body, self._count, self._pieces, due)
        self._waiting.set()

    def drop(self, connection: Connection) -> None:
        if self._open.pop(connection, None) is not None:
            self._dropped_at = time.time()

    def told(self) -> dict[str, float]:
        return {"count": self._count, "first_token_s": self._first_token_s, "dropped_at": self._dropped_at}

    async def run(self) -> None:
        """Makes tokens for ever."""
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            if not self._open:
                self._waiting.clear()
                await self._waiting.wait()
                due = loop.time() + 1 / self._rates.at(1)
            left = due - loop.time()
            await asyncio.sleep(
                max(left, _TICK_S) if left > 0 else 0
            )  # a shorter sleep of uvloop's is none: it would spin
            now = loop.time()
            ready = [connection for connection, answer in self._open.items() if answer.due <= now]
            if not ready:  # the prompts are still being read
                due = min((answer.due for answer in self._open.values()), default=now)
                continue
            while due <= now:  # the engine has gone on while its answers were written
                for connection in ready:
                    self._step(connection)
                due += len(ready) / self._rates.at(len(ready))

    def _step(self, connection: Connection) -> None:
        answer = self._open[connection]
        if answer.step() and not answer.queued:
            answer.queued = True
            asyncio.get_running_loop().call_soon(self._write, connection, answer)

    def _write(self, connection: Connection, answer: Answer) -> None:
        if self._work_s:
            until = time.thread_time() + self._work_s  # of the processor: not what others take meanwhile
            while time.thread_time() < until:
                pass
        answer.queued = False
        if self._open.get(connection) is not answer:  # it has gone
            return
        first, last = answer.send()
        if first:
            self._first_token_s = time.perf_counter() - answer.asked_at
        if last:
            del self._open[connection]


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._input = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._engine.drop(self)

    def data_received(self, data: bytes) -> None:
        self._input += data
        head, separator, body = self._input.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not separator or len(body) < int(length[1] if length else 0):
            return
        self._input = b""
        path = head.split(b" ", 2)[1]
        if path == b"/v1/chat/completions":
            self._engine.ask(self, body)
            return
        models = {"object": "list", "data": [{"id": "fake", "object": "model", "max_model_len": 131072}]}
        documents: dict[bytes, object] = {b"/v1/models": models, b"/answers": self._engine.told()}
        answer = json.dumps(documents[path]).encode() if path in documents else b""
        kind = b"content-type: application/json\r\n" if answer else b""
        self.transport.write(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (kind, len(answer), answer))


async def serve(port: int, engine: Engine) -> None:
    await asyncio.get_running_loop().create_server(lambda: Connection(engine), "127.0.0.1", port)
    await engine.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--step-ms", type=float, default=5.0, help="the time for a token, however many answers")
    parser.add_argument("--rates", type=Curve.parse, help="in its place: tokens per second by open answers")
    parser.add_argument("--first-token-ms", type=Curve.parse, default=Curve(((1, 0.0),)), help="by open answers")
    parser.add_argument("--work-us", type=float, default=0.0, help="processor time for a chunk")
    parser.add_argument("--text", type=Path, help="a file of Markdown that the answers consist of")
    args = parser.parse_args()
    steps = Curve(tuple((count, count * 1000 / args.step_ms) for count in (1, 100_000)))
    text = args.text.read_text(encoding="utf-8") if args.text else ""
    uvloop.run(serve(args.port, Engine(args.rates or steps, args.first_token_ms, args.work_us / 1e6, text)))


if __name__ == "__main__":
    main()
