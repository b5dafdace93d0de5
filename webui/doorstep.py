"""Lets questions that come all at once through a few at a time.

What a question needs before vLLM has it takes several turns of the event loop: its place in the conversation, its
server, a connection. Without order 128 of them would go through each station together, and the first would be sent when
the last is nearly ready: a tenth of a second in which the engine has nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_AT_ONCE = 4
"""Enough that the event loop has something to do while one of them waits for a thread or a socket."""
_PATIENCE = 0.05
"""Seconds after which one that has to wait for something (a start, a disk) does not keep others waiting."""


class Doorstep:
    """One for the whole app."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def enter(self) -> Callable[[], None]:
        """Waits for a turn, first come, first served; what it returns is to be called when the next may come.

        That may be called more than once; it is called by itself after 50 ms.
        """
        await self._places.acquire()
        timer: asyncio.TimerHandle | None = None

        def leave() -> None:
            nonlocal timer
            if timer is not None:
                timer.cancel()
                timer = None
                self._places.release()

        timer = asyncio.get_running_loop().call_later(_PATIENCE, leave)
        return leave
