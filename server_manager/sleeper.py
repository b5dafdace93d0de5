"""Puts one server's model to sleep and wakes it, by vLLM's own routes, and proves that it is awake.

vLLM's sleep mode is sharp: a sleeping server answers ``/health`` and swallows chats; after level 2 it serves garbage
until the weights are read again (vllm#29341); a wake that runs out of memory leaves it half awake (#34600). So nothing
is sent to a server from the moment in which it is told to sleep, and after each wake one token is made whose
candidates are known from before. Where that fails the server is started cold, by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from server_manager import sleep_routes
from server_manager.client import ServerClient
from server_manager.errors import ChatError, NotAllowed, RequestRejected, StartError
from server_manager.launchers.base import HandleRecord
from server_manager.server_state import ServerState, SleepView
from server_manager.status_cell import StatusCell

log = logging.getLogger(__name__)

_PROMPT = "The capital of France is"
_CANDIDATES = 5
"""The greedy token after a wake must be among so many of before: sums in another order may swap near neighbours."""


class Sleeper:
    """Belongs to one server; ``begin`` for each of its lives."""

    def __init__(
        self, cell: StatusCell, client: Callable[[], ServerClient], start_cold: Callable[[str], None],
        keep: Callable[[HandleRecord], None],
    ) -> None:  # fmt: skip
        """``start_cold(why)`` ends the present life and begins another; ``keep`` has the next app know its record."""
        self._cell = cell
        self._client = client
        self._start_cold = start_cold
        self._keep = keep
        self._lock = asyncio.Lock()
        self._record: HandleRecord | None = None
        self._expected: frozenset[str] | None = None

    def begin(self, record: HandleRecord) -> None:
        """A life with this process has begun."""
        self._record, self._expected = record, frozenset(record.likely_tokens) or None
        routes = record.env.get("VLLM_SERVER_DEV_MODE") == "1"
        self._cell.update(sleep=SleepView(frees_memory="--enable-sleep-mode" in record.argv) if routes else None)

    async def practise(self) -> None:
        """Sleeps at level 1 and wakes, before the server is offered to anybody: the first time is slow.

        Raises ``StartError`` where that does not go well.
        """
        client = self._client()
        try:
            await self._learn(client)
            began = time.monotonic()
            await sleep_routes.sleep(client, level=1)
            self._note(first_sleep_s=time.monotonic() - began)
            await self._wake_and_prove(client, level=1)
        except ChatError as error:
            name = self._cell.value.name
            raise StartError(
                f"{name} did not wake well from its first sleep: {error.message}",
                f"Set DECK_SWITCHABLE=no in {name}.env to serve it without sleep mode.",
                name=name,
            ) from error

    async def level_now(self) -> int:
        """Of a server that was adopted: 0 where it is awake."""
        try:
            return await sleep_routes.sleep_level(self._client()) if self._cell.value.sleep else 0
        except ChatError:  # it is watched from here on, and that tells what is wrong with it
            return 0

    def found(self, level: int) -> None:
        """What ``level_now`` has told, once the server is ready."""
        if level:
            self._note(level=level)
            self._cell.transition(ServerState.ASLEEP)

    async def sleep(self, level: int = 1) -> None:
        """Puts a ready server to sleep. Raises ``NotAllowed`` where it was not started for that, or ``ChatError``."""
        async with self._lock:
            status = self._cell.value
            if status.state is ServerState.ASLEEP:
                return
            if status.state is not ServerState.READY:
                raise NotAllowed(f"{status.name} is not ready.", "Start it, and wait until it is.")
            if status.sleep is None:
                raise NotAllowed(
                    f"{status.name} was started without sleep mode.",
                    "Add `enable-sleep-mode: true` to its model file and start it again (needs a GPU).",
                )
            client = self._client()
            if self._expected is None:
                await self._learn(client)
            # Before the request: a sleeping server swallows chats, so nothing may be sent to it from here on.
            self._cell.transition(ServerState.ASLEEP)
            self._note(level=level)
            began = time.monotonic()
            try:
                await sleep_routes.sleep(client, level)
            except RequestRejected:
                self._awake_again()  # unlike one that did not answer: that may be asleep, and is woken before a chat
                raise
            self._note(sleep_s=time.monotonic() - began)

    async def wake(self) -> None:
        """Wakes a sleeping server; does nothing to one that is awake.

        Raises ``ChatError`` where it did not wake well; it is being started cold then.
        """
        async with self._lock:
            status = self._cell.value
            if status.state is not ServerState.ASLEEP or status.sleep is None:
                return
            try:
                await self._wake_and_prove(self._client(), status.sleep.level)
            except ChatError as error:
                if self._cell.value.state is ServerState.ASLEEP:  # else it was stopped, or has ended, meanwhile
                    self._start_cold(f"{status.name} did not wake well: {error.message}")
                raise
            self._awake_again()

    async def _wake_and_prove(self, client: ServerClient, level: int) -> None:
        began = time.monotonic()
        await sleep_routes.wake_up(client, level)
        if await sleep_routes.is_sleeping(client):
            raise RequestRejected("It still sleeps after it was woken.", "It is started again.")
        if self._expected:
            found = await self._likely_tokens(client)
            if not found or not found & self._expected:
                raise RequestRejected(
                    f"It talks nonsense since it was woken: {_words(found)} in place of {_words(self._expected)}.",
                    "It is started again.",
                )
        self._note(wake_s=time.monotonic() - began, level=0)

    async def _learn(self, client: ServerClient) -> None:
        """What to expect after a wake, of a server that is awake and well; the next app is to know it too."""
        record = self._record
        self._expected = await self._likely_tokens(client)
        if self._expected and record is not None and record is self._record:
            self._record = replace(record, likely_tokens=tuple(sorted(self._expected)))
            self._keep(self._record)

    async def _likely_tokens(self, client: ServerClient) -> frozenset[str] | None:
        model = self._cell.value.served_model_name or (await client.models())[0].id
        return await sleep_routes.likely_tokens(client, model, _PROMPT, _CANDIDATES)

    def _awake_again(self) -> None:
        if self._cell.value.state is ServerState.ASLEEP:  # it may have been stopped meanwhile
            self._note(level=0)
            self._cell.transition(ServerState.READY)

    def _note(self, **fields: float) -> None:
        view = self._cell.value.sleep
        if view is not None:
            self._cell.update(sleep=view.with_fields(**fields))


def _words(tokens: frozenset[str] | None) -> str:
    return ", ".join(repr(token) for token in sorted(tokens or ())[:3]) or "nothing"
