"""The polite part of a stop: SIGTERM, patience for open answers, and cutting those that take too long.

vLLM's API server does not exit as long as a client is connected, however long ago it was told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from server_manager.launchers.base import ServerHandle


class OpenStreams:
    """The tasks that stream answers from a server."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """Held by the task that streams: ``cut`` cancels it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    def cut(self) -> None:
        """Cancels the tasks, which closes their connections."""
        for task in tuple(self._tasks):
            task.cancel("the server is stopped")


async def end_politely(
    handle: ServerHandle, streams: OpenStreams, *, shutdown_timeout: float, kill_after: float
) -> None:
    """Returns when the leader has ended, or when ``shutdown_timeout + kill_after`` seconds are over."""
    deadline = time.monotonic() + shutdown_timeout + kill_after
    # Half a second for vLLM to end by itself what is due to end; less where there is no more patience than that.
    cut_at = time.monotonic() + shutdown_timeout + min(0.5, kill_after / 2)
    if handle.poll() is None:
        handle.terminate()
    while handle.poll() is None and (now := time.monotonic()) < deadline:
        if now > cut_at:
            streams.cut()
        await asyncio.sleep(0.05)


async def end_tree(handle: ServerHandle, streams: OpenStreams, patience: tuple[float, float] | None) -> tuple[int, ...]:
    """Ends all of it, politely first where ``patience`` is given (``shutdown_timeout``, ``kill_after``, in seconds).

    The pids that would not die, normally none.
    """
    if patience is not None:
        await end_politely(handle, streams, shutdown_timeout=patience[0], kill_after=patience[1])
    return await handle.kill()
