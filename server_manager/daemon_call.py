"""A blocking call that may hang, made from the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_daemon_thread(name: str, function: Callable[[], T]) -> asyncio.Future[T]:
    """What ``function`` returns or raises, from a daemon thread of its own.

    Not asyncio.to_thread(): a thread of its pool that hangs (in a driver, on a network) would keep the app from ever
    exiting.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if answer.done():  # nobody waits any more
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def call() -> None:
        result, failure = None, None
        try:
            result = function()
        except Exception as error:  # noqa: BLE001  # whoever waits for the answer gets it
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the app has ended meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=call, name=name, daemon=True).start()
    return answer
