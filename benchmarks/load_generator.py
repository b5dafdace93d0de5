"""Asks a server for many streamed answers at once and prints what came, as one JSON object.

    python -m benchmarks.load_generator --url URL --model NAME --streams N --tokens N [--key-file FILE] [--cpus 8-9]
        [--watch NAME=PID …]

A process of its own, on bare sockets: it looks into the bytes no more than it needs to count, so that it does not
become what is measured. All connections are opened first, then all requests are sent at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from benchmarks.process_use import cpus_of, uses_of

_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')
_TAIL = 2048
_OWN = "load generator"
_WORDS = 90
"""Of each prompt: about 128 tokens with the chat template of Qwen2."""


class Stream(asyncio.Protocol):
    """One answer."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = loop.create_future()
        self.sent_at = self.first_at = self.ended_at = 0.0
        self.events = self.reads = self.bytes = 0
        self._tail = self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> None:
        self.sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.reads += 1
        self.bytes += len(data)
        self.head = self.head or data
        self.events += data.count(b"data: ")
        if not self.first_at and self.events > 1:  # the first event only names the role
            self.first_at = time.perf_counter()
        self._tail = data if len(data) > _TAIL else (self._tail + data)[-_TAIL:]
        if self._tail.endswith(b"0\r\n\r\n"):
            self.ended_at = time.perf_counter()
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.done.set_result(None)

    @property
    def tokens(self) -> int:
        """By the server's own count. Raises ``RuntimeError`` where the answer is not whole."""
        found = _USAGE.findall(self._tail)
        if not self.head.startswith(b"HTTP/1.1 200") or not self.ended_at or not found:
            raise RuntimeError(f"no whole answer: {self.head[:300]!r} … {self._tail[-300:]!r}")
        return int(found[-1])


def request_of(url: str, key: str, model: str, tokens: int, number: int) -> bytes:
    """With a prompt that no other request has, so that no prefix is cached."""
    words = " ".join(f"{(number * 7919 + i * 104729) % 9973:x}" for i in range(_WORDS // 3))
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": f"{number} {words}"}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0.8,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    parts = urlsplit(url)
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    return (
        f"POST {parts.path}/v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def run(url: str, key: str, model: str, streams: int, tokens: int, watched: Mapping[str, int]) -> dict[str, Any]:
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    seed = time.time_ns() // 1000 % 10**9
    requests = [request_of(url, key, model, tokens, seed + i) for i in range(streams)]
    made = [(await loop.create_connection(Stream, parts.hostname, parts.port))[1] for _ in range(streams)]
    before, began = uses_of({**watched, _OWN: os.getpid()}), time.perf_counter()
    for stream, request in zip(made, requests, strict=True):
        stream.ask(request)
    await asyncio.gather(*(stream.done for stream in made))
    counts = [stream.tokens for stream in made]
    seconds = max(stream.ended_at for stream in made) - began
    after = uses_of({**watched, _OWN: os.getpid()})
    uses = {name: use.since(before[name]) for name, use in after.items()}
    firsts = sorted(stream.first_at - stream.sent_at for stream in made)
    return {
        "tokens": sum(counts),
        "seconds": seconds,
        "tokens_per_second": sum(counts) / seconds,
        "first_token_median_s": statistics.median(firsts),
        "first_token_worst_s": firsts[-1],
        "reads": sum(stream.reads for stream in made),
        "generator_cpu_share": uses[_OWN].cpu_s / seconds,
        "generator_waited_share": uses[_OWN].waited_s / seconds,
        "processes": {name: uses[name].as_dict() for name in watched},
        "bytes": sum(stream.bytes for stream in made),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--key-file", type=Path, help="keys do not belong on a command line")
    parser.add_argument("--watch", action="append", default=[], metavar="NAME=PID", help="note what it uses meanwhile")
    parser.add_argument("--cpus", help="run on these processors only")
    args = parser.parse_args()
    if args.cpus:
        os.sched_setaffinity(0, cpus_of(args.cpus))
    key = args.key_file.read_text(encoding="utf-8").strip() if args.key_file else ""
    watched = {name: int(pid) for name, _, pid in (each.rpartition("=") for each in args.watch)}
    print(json.dumps(uvloop.run(run(args.url.rstrip("/"), key, args.model, args.streams, args.tokens, watched))))


if __name__ == "__main__":
    main()
