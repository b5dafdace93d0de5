"""Asks for many streamed answers at once and prints what came, as one JSON object.

    python -m benchmarks.load_generator --url URL --model NAME --streams N --tokens N [--way page] [--key-file FILE]
        [--cpus 8-9] [--watch NAME=PID …]

A process of its own, which looks into the bytes no more than it needs to, so that it does not become what is measured.
All connections are opened first, then all requests are sent at once. With ``--watch`` it also says what those processes
used of the processors meanwhile; of the one that is named ``app`` also what it used while all chats streamed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.chat_clients import Chat, OpenAiChat, Order, PageChat, PlaygroundChat
from benchmarks.gradio_client import GradioChat
from benchmarks.process_use import cpus_of, use_of, uses_of

WAYS: dict[str, Callable[[Order, int], Chat]] = {
    "openai": OpenAiChat,
    "page": PageChat,
    "gradio": GradioChat,
    "playground": PlaygroundChat,
}
APP = "app"
_OWN = "load generator"
_LOOK_S = 0.02
_AT_ONCE = 32
"""Chats that prepare at the same time."""


class Meter:
    """What the watched processes use: over the whole round, and the app while every chat streams."""

    def __init__(self, watched: Mapping[str, int], chats: Sequence[Chat]) -> None:
        self._watched = {**watched, _OWN: os.getpid()}
        self._chats = chats
        self._before, self._began = uses_of(self._watched), time.perf_counter()
        self._first: tuple[float, float, int] | None = None
        self._last: tuple[float, float, int] | None = None

    def _look(self) -> tuple[float, float, int]:
        frames = sum(chat.seen.frames for chat in self._chats)
        return time.perf_counter(), use_of(self._watched[APP]).cpu_s, frames

    async def watch(self) -> None:
        """Notes the moment when all chats have text, and every later one until one of them ends."""
        while APP in self._watched and not any(chat.seen.ended_at for chat in self._chats):
            await asyncio.sleep(_LOOK_S)
            if self._first is None:
                if all(chat.seen.first_at for chat in self._chats):
                    self._first = self._look()
            elif not any(chat.seen.ended_at for chat in self._chats):
                self._last = self._look()

    def found(self) -> dict[str, Any]:
        """What each process used; ``streaming_*`` (seconds, and a count) while all chats streamed."""
        seconds = time.perf_counter() - self._began
        uses = {name: use.since(self._before[name]) for name, use in uses_of(self._watched).items()}
        own = uses.pop(_OWN)
        found: dict[str, Any] = {
            "watched_s": seconds,
            "generator_cpu_share": own.cpu_s / seconds,
            "generator_waited_share": own.waited_s / seconds,
            "processes": {name: use.as_dict() for name, use in uses.items()},
        }
        if self._first and self._last:
            names = ("streaming_s", "streaming_cpu_s", "streaming_frames")
            found |= {name: b - a for name, a, b in zip(names, self._first, self._last, strict=True)}
        return found


async def run(order: Order, way: str, streams: int, watched: Mapping[str, int]) -> dict[str, Any]:
    """One round. Raises ``RuntimeError`` where an answer is not whole."""
    seed = time.time_ns() // 1000 % 10**9
    chats = [WAYS[way](order, seed + i) for i in range(streams)]
    few = asyncio.Semaphore(_AT_ONCE)

    async def prepare(chat: Chat) -> None:
        async with few:
            await chat.prepare()

    await asyncio.gather(*map(prepare, chats))
    meter = Meter(watched, chats)
    began = time.perf_counter()
    watching = asyncio.create_task(meter.watch())
    await asyncio.gather(*(chat.ask() for chat in chats))
    await asyncio.gather(*(chat.close() for chat in chats))
    await watching
    seen = [chat.seen for chat in chats]
    seconds = max(one.ended_at for one in seen) - began
    firsts = sorted(one.first_at - one.sent_at for one in seen)
    tokens = sum(one.tokens for one in seen)
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "first_token_median_s": statistics.median(firsts),
        "first_token_worst_s": firsts[-1],
        "first_tokens_s": firsts,
        "largest_gap_s": max(one.largest_gap_s for one in seen),
        "frames": sum(one.frames for one in seen),
        "reads": sum(one.reads for one in seen),
        "bytes": sum(one.bytes for one in seen),
        **meter.found(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--way", choices=WAYS, default="openai")
    parser.add_argument("--turns", type=int, default=0, help="of each conversation, before the measured one")
    parser.add_argument("--watch", action="append", default=[], metavar="NAME=PID", help="note what it uses meanwhile")
    parser.add_argument("--cpus", help="run on these processors only")
    parser.add_argument("--key-file", type=Path, help="keys do not belong on a command line")
    args = parser.parse_args()
    if args.cpus:
        os.sched_setaffinity(0, cpus_of(args.cpus))
    key = args.key_file.read_text(encoding="utf-8").strip() if args.key_file else ""
    order = Order(args.url.rstrip("/"), args.model, key, args.tokens, args.turns)
    watched = {name: int(pid) for name, _, pid in (each.rpartition("=") for each in args.watch)}
    print(json.dumps(uvloop.run(run(order, args.way, args.streams, watched))))


if __name__ == "__main__":
    main()
