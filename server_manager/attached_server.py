"""A server that somebody else runs (``--attach NAME=URL``): chats work on it, start and stop do not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from server_manager.client import ClientSession, ServerClient
from server_manager.errors import ChatError, NotAllowed
from server_manager.launchers.base import ProcessInfo
from server_manager.server_state import ExitCause, ServerExit, ServerState, ServerStatus, Waiting
from server_manager.status_cell import StatusCell, served_fields

_PROBE_INTERVAL = 5.0


class AttachedServer:
    """The same questions as of a ``ServerProcess``, answered by asking its URL."""

    def __init__(self, name: str, url: str, session: ClientSession, api_key: str | None) -> None:
        self.name = name
        base_url = url.rstrip("/").removesuffix("/v1")
        self._client = ServerClient(session, base_url, api_key)
        self._cell = StatusCell(ServerStatus(name, since=time.time(), base_url=base_url, attached=True))
        self._probe_task: asyncio.Task[None] | None = None

    @property
    def status(self) -> ServerStatus:
        """What the last look at it gave."""
        return self._cell.value

    def processes(self) -> tuple[ProcessInfo, ...]:
        """None of ours."""
        return ()

    def client(self) -> ServerClient:
        """HTTP to the server, whatever its state."""
        return self._client

    @contextlib.contextmanager
    def stream_lease(self) -> Iterator[None]:
        """Nothing to hold: we never stop it."""
        yield

    def start(self) -> bool:
        """Begins to look at it. It is not ours to start: always false."""
        if self._probe_task is None:
            self._probe_task = asyncio.create_task(self._keep_probing(), name=f"probe of {self.name}")
        return False

    async def ensure_ready(self) -> ServerClient:
        """Its client if it answered at the last look. Raises ``ServerUnreachable`` or ``RequestRejected`` otherwise."""
        if self._probe_task is None or self.status.state is not ServerState.READY:
            await self._probe()
        return self._client

    async def stop(self, *, now: bool = False) -> ServerExit | None:
        """Raises ``NotAllowed``."""
        raise self._not_ours("stopped")

    async def sleep(self, level: int = 1) -> None:
        """Raises ``NotAllowed``."""
        raise self._not_ours("put to sleep")

    async def wake(self) -> None:
        """Raises ``NotAllowed``."""
        raise self._not_ours("woken")

    async def leave(self) -> None:
        """Ends the looking."""
        if self._probe_task is not None:
            self._probe_task.cancel()
            await asyncio.wait([self._probe_task])
            self._probe_task = None

    async def until_started(self) -> bool:
        """It is never started from here."""
        return self.status.state is ServerState.READY

    def show_waiting(self, waiting: Waiting | None) -> None:
        """It waits for nobody."""

    def cut_streams(self) -> None:
        """It never has to make room."""

    def start_cold(self, why: str) -> None:
        """Nor is it started."""

    def _not_ours(self, what: str) -> NotAllowed:
        return NotAllowed(f"{self.name} is attached and cannot be {what} from here.", "Do it where it was started.")

    async def _keep_probing(self) -> None:
        while True:
            with contextlib.suppress(ChatError):  # it is in the status
                await self._probe()
            await asyncio.sleep(_PROBE_INTERVAL)

    async def _probe(self) -> None:
        try:
            served = await self._client.models()
        except ChatError as error:
            end = ServerExit(ExitCause.UNREACHABLE, error.message, error.next_step or "Check the URL.", error.code)
            if self.status.state is not ServerState.FAILED:
                self._into_failed(end)
            elif self.status.exit != end:
                self._cell.update(exit=end)
            raise
        fields = {**served_fields(served), "exit": None}
        if self.status.state is ServerState.READY:
            if self.status.served_model_names != fields["served_model_names"]:
                self._cell.update(**fields)
        else:
            self._cell.transition(ServerState.READY, ready_at=time.time(), **fields)

    def _into_failed(self, end: ServerExit) -> None:
        if self.status.state is ServerState.STOPPED:  # never seen yet
            self._cell.transition(ServerState.STARTING)
        self._cell.transition(ServerState.FAILED, exit=end)
