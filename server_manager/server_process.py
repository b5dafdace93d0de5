"""One ``vllm serve`` and its state.

Each life of a server, from the request to start until nothing of it is left, is one task, and that task is the only
writer of its state. Everybody else asks: ``ensure_ready()`` joins the life that is on or begins one, ``stop()`` asks
it to end, ``watch()`` looks on. So a start belongs to the server, not to the click or the browser tab that asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from server_manager.client import ClientSession, ServerClient
from server_manager.errors import ChatError, ExitedDuringStart, NotAllowed, ServerManagerError, StartStalled, StopError
from server_manager.exit_report import report_end, report_survivors, start_error
from server_manager.handle_store import HandleStore
from server_manager.launchers.base import HandleRecord, Launcher, LaunchRequest, ProcessInfo, ServerHandle
from server_manager.log_file import LogFollower
from server_manager.progress_watch import ProgressWatch
from server_manager.server_state import LIVE_STATES, ExitCause, ServerExit, ServerState, ServerStatus
from server_manager.settings import Settings
from server_manager.start_phase import ORDER, StartPhase, phase_of
from server_manager.status_cell import StatusCell

log = logging.getLogger(__name__)
T = TypeVar("T")

_SERVING = (ServerState.READY, ServerState.ASLEEP)
_HEALTH_INTERVAL_READY = 2.0
_ENGINE_DEATH_PATIENCE = 8.0
"""After ``/health`` says 503 vLLM takes about 5 s to exit; its log is complete then."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """A request with what is shown of it. Made anew for each start, from the model's file as it then is."""

    request: LaunchRequest
    command: str
    """The line for a shell, without secrets."""
    shutdown_timeout: float
    """Seconds that vLLM lets open requests go on after SIGTERM."""


Planner = Callable[[Callable[[str], None]], Awaitable[LaunchPlan]]
"""Makes the plan of the next start; what it passes to its argument is shown as progress meanwhile."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What all servers of a manager share."""

    settings: Settings
    launcher: Launcher
    store: HandleStore
    session: ClientSession


class _StopRequested(Exception):
    """Raised inside a life when somebody asked for its end."""


class ServerProcess:
    """A model's server: at most one tree of processes at a time."""

    def __init__(self, name: str, planner: Planner, shared: Dependencies) -> None:
        self.name = name
        self._planner = planner
        self._shared = shared
        self._settings = shared.settings
        self._cell = StatusCell(ServerStatus(name, since=time.time()))
        self._life: asyncio.Task[None] | None = None
        self._handle: ServerHandle | None = None
        self._stop_requested = asyncio.Event()
        self._stop_asked_at = 0.0
        self._shutdown_timeout = shared.settings.shutdown_timeout
        self._streams: set[asyncio.Task[Any]] = set()
        self._sleep_lock = asyncio.Lock()

    # What everyone may know

    @property
    def status(self) -> ServerStatus:
        """The server now."""
        return self._cell.value

    def watch(self) -> AsyncIterator[ServerStatus]:
        """The status now and after each change."""
        return self._cell.watch()

    def processes(self) -> tuple[ProcessInfo, ...]:
        """The living processes of the server. Blocking for some milliseconds: call it in a thread."""
        handle = self._handle
        return handle.processes() if handle else ()

    def client(self) -> ServerClient:
        """HTTP to the server. Raises ``NotAllowed`` where there is none."""
        if self._handle is None or self.status.base_url is None:
            raise NotAllowed(f"{self.name} is not ready.", "Start it first.")
        return ServerClient(self._shared.session, self.status.base_url, self._handle.record.api_key)

    @contextlib.contextmanager
    def stream_lease(self) -> Iterator[None]:
        """Held by the task that streams an answer: a stop cancels it when vLLM's patience is over.

        vLLM's API server does not exit as long as a client is connected, however long ago it was told to.
        """
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            yield
        finally:
            self._streams.discard(task)

    # What everyone may ask for

    def start(self) -> None:
        """Begins a life, if none is on, and returns at once."""
        if self._life is None or self._life.done():
            self._begin(self._live)

    async def ensure_ready(self) -> ServerClient:
        """A client of the server once it is ready: starts it, joins a start, waits for a stop, wakes it.

        Raises ``StartError`` with the reason. Cancelling ends only the waiting.
        """
        while True:
            match self.status.state:
                case ServerState.READY:
                    return self.client()
                case ServerState.ASLEEP:
                    await self.wake()
                case ServerState.STOPPING:
                    await self._cell.wait_until(lambda status: status.state is not ServerState.STOPPING)
                case _:
                    self.start()
                    life = self._life
                    await self._cell.wait_until(lambda status: status.state in _SERVING, unless_done=life)
                    if self.status.state not in _SERVING:
                        raise start_error(self.name, self.status.exit)

    async def stop(self, *, now: bool = False) -> ServerExit | None:
        """Ends the server and waits until nothing of it is left; its exit, or ``None`` if there was nothing to end.

        Open answers may go on for ``shutdown_timeout`` unless ``now``. Raises ``StopError`` where a process outlives
        SIGKILL. Cancelling ends only the waiting.
        """
        life = self._life
        if life is None or life.done():
            return None
        if not self._stop_requested.is_set():
            self._stop_asked_at = time.monotonic()
            self._stop_requested.set()
        if now:
            self._cancel_streams()
        await asyncio.shield(life)
        end = self.status.exit
        if end is not None and end.code == StopError.code:
            raise StopError(end.message, end.next_step)
        return end

    async def leave(self) -> None:
        """Lets go of the server without ending it (``--keep-servers``): the next app adopts it."""
        if self._life is not None and self._handle is not None and not self._stop_requested.is_set():
            self._life.cancel()
            await asyncio.wait([self._life])

    async def adopt(self, record: HandleRecord, command: str) -> bool:
        """Takes over a server that an earlier app left; false where it is gone."""
        handle = await self._shared.launcher.adopt(record)
        if handle is None:
            return False
        self._handle = handle
        self._begin(lambda: self._live_adopted(handle, command))
        return True

    async def sleep(self, level: int = 1) -> None:
        """Puts a ready server to sleep. Raises ``NotAllowed`` where it was not started for that, or ``ChatError``."""
        async with self._sleep_lock:
            if self.status.state is ServerState.ASLEEP:
                return
            client = self.client()
            if self._handle is not None and "--enable-sleep-mode" not in self._handle.record.argv:
                raise NotAllowed(
                    f"{self.name} was started without sleep mode.",
                    "Add `enable-sleep-mode: true` to its model file and start it again (needs a GPU).",
                )
            # Before the request: a sleeping server swallows chats, so nothing may be sent to it from here on.
            self._cell.transition(ServerState.ASLEEP)
            try:
                await client.sleep(level)
            except ChatError:
                self._awake_again()
                raise

    async def wake(self) -> None:
        """Wakes a sleeping server; does nothing to one that is awake. Raises ``ChatError``."""
        async with self._sleep_lock:
            if self.status.state is ServerState.ASLEEP:
                await self.client().wake_up()
                self._awake_again()

    def _awake_again(self) -> None:
        if self.status.state is ServerState.ASLEEP:  # it may have been stopped meanwhile
            self._cell.transition(ServerState.READY)

    # A life

    def _begin(self, life: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._stop_requested.clear()
        self._cell.transition(
            ServerState.STARTING, started_at=time.time(), phase=StartPhase.PREPARE, exit=None, pid=None, detail=""
        )
        self._life = asyncio.create_task(life(), name=f"life of {self.name}")

    async def _live(self) -> None:
        """From the request to start until nothing is left. Never raises: the outcome is the last status."""

        async def start_and_serve() -> None:
            plan = await self._unless_stopped(self._planner(lambda text: self._progress(StartPhase.PREPARE, text)))
            self._shutdown_timeout = plan.shutdown_timeout
            self._handle = handle = await self._shared.launcher.launch(plan.request)
            self._shared.store.save(handle.record)
            await self._serve(handle, plan.command)

        await self._until_over(start_and_serve())

    async def _live_adopted(self, handle: ServerHandle, command: str) -> None:
        self._cell.update(started_at=handle.record.started_at)
        await self._until_over(self._serve(handle, command))

    async def _until_over(self, life: Coroutine[Any, Any, None]) -> None:
        """Runs a life and turns the way it ends into the last status."""
        began = time.monotonic()
        try:
            await life
        except _StopRequested:
            await self._finish(ServerExit(ExitCause.STOPPED, "Stopped."))
        except ServerManagerError as error:
            await self._finish(self._report(error, time.monotonic() - began))
        except Exception as error:  # whatever it is: the tree must be ended and the reason shown, not only logged
            log.exception("the life of %s ended unexpectedly", self.name)
            mistake = ServerManagerError(
                f"vLLM Deck made a mistake: {error!r}.", "Please report it with the app's log."
            )
            await self._finish(self._report(mistake, time.monotonic() - began))

    async def _serve(self, handle: ServerHandle, command: str) -> None:
        """Until the server ends by itself (raises) or is asked to (``_StopRequested``)."""
        record = handle.record
        self._cell.update(
            pid=handle.pid,
            port=record.port,
            base_url=f"http://127.0.0.1:{record.port}",
            command=command,
            kept=self._settings.keep_servers,
            phase=StartPhase.IMPORT,
            detail="",
        )
        await self._until_ready(handle)
        await self._until_end(handle)

    async def _until_ready(self, handle: ServerHandle) -> None:
        """Reads the log and asks ``/health`` until it says 200."""
        client = self.client()
        follower = LogFollower(Path(handle.record.log_path))
        watch = ProgressWatch(self._settings.stall_after)
        while True:
            for line in follower.read_new():
                if reached := phase_of(line):
                    self._progress(reached.phase, reached.detail)
            if (returncode := handle.poll()) is not None:
                raise ExitedDuringStart("vLLM ended before it served.", returncode=returncode)
            if await self._unless_stopped(client.health()) == 200:
                break
            if watch.stalled(follower.offset, await asyncio.to_thread(handle.cpu_seconds)):
                raise StartStalled(
                    f"Nothing has moved for {watch.idle_s:.0f} s, in the phase “{self.status.phase}”.",
                    "See its log; a download or a driver that hangs is the usual reason.",
                )
            await self._unless_stopped(asyncio.sleep(self._settings.health_interval))
        served = await self._unless_stopped(client.models())
        self._cell.transition(
            ServerState.READY,
            ready_at=time.time(),
            phase=None,
            detail="",
            served_model_name=served[0].id if served else None,
            max_model_len=served[0].max_model_len if served else None,
        )

    async def _until_end(self, handle: ServerHandle) -> None:
        """Watches a ready server until it ends (raises) or its end is asked for."""
        client = self.client()
        ended = asyncio.ensure_future(handle.wait())
        stop = asyncio.ensure_future(self._stop_requested.wait())
        try:
            while True:
                await asyncio.wait({ended, stop}, timeout=_HEALTH_INTERVAL_READY, return_when=asyncio.FIRST_COMPLETED)
                if stop.done():
                    raise _StopRequested
                if ended.done():
                    raise ExitedDuringStart("vLLM ended while it served.", returncode=ended.result())
                if await client.health() == 503:
                    await asyncio.wait({ended}, timeout=_ENGINE_DEATH_PATIENCE)
                    raise ExitedDuringStart("vLLM's engine died while it served.", returncode=handle.poll())
        finally:
            ended.cancel()
            stop.cancel()

    async def _finish(self, end: ServerExit) -> None:
        """Ends what still lives, cleans up, and writes the last status of this life."""
        asked, was_serving = self._stop_requested.is_set(), self.status.state in _SERVING
        if asked and end.cause is not ExitCause.STOPPED:
            end = ServerExit(ExitCause.STOPPED, "Stopped.")
        self._cell.transition(ServerState.STOPPING)
        survivors: tuple[int, ...] = ()
        if (handle := self._handle) is not None:
            if asked and was_serving:
                await self._end_politely(handle)
            survivors = await handle.kill()
            end = replace(end, returncode=handle.poll())
        self._cancel_streams()
        with contextlib.suppress(ServerManagerError):  # a record that cannot be removed names a dead pid: harmless
            self._shared.store.remove(self.name)
        self._handle = None
        if asked:
            end = replace(end, seconds=time.monotonic() - self._stop_asked_at)
        if survivors:
            end = report_survivors(end, survivors)
        self._cell.transition(
            ServerState.STOPPED if asked and not survivors else ServerState.FAILED,
            exit=end,
            pid=None,
            port=None,
            base_url=None,
            phase=None,
            detail="",
        )

    async def _end_politely(self, handle: ServerHandle) -> None:
        """SIGTERM, patience for open answers, then their connections are cut; the rest is for SIGKILL."""
        if handle.poll() is None:
            handle.terminate()
        if self._streams and not await self._ended_within(handle, self._shutdown_timeout + 0.5):
            self._cancel_streams()
        await self._ended_within(handle, self._settings.kill_after + self._shutdown_timeout)

    @staticmethod
    async def _ended_within(handle: ServerHandle, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while handle.poll() is None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    # Small parts

    def _report(self, error: ServerManagerError, seconds: float) -> ServerExit:
        log_path = Path(self._handle.record.log_path) if self._handle else None
        return report_end(error, served=self.status.state in _SERVING, log_path=log_path, seconds=seconds)

    def _progress(self, phase: StartPhase, detail: str) -> None:
        """Notes a phase; one that is already passed is not gone back to (vLLM's processes log side by side)."""
        now = self.status.phase
        if self.status.state is ServerState.STARTING and (now is None or ORDER.index(phase) >= ORDER.index(now)):
            self._cell.update(phase=phase, detail=detail)

    def _cancel_streams(self) -> None:
        for task in tuple(self._streams):
            task.cancel("the server is stopped")

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """The result of ``work``, or ``_StopRequested`` (and ``work`` cancelled) as soon as a stop is asked for."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop_requested.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _StopRequested
            return task.result()
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})


def is_live(status: ServerStatus) -> bool:
    """Whether processes of the server may exist."""
    return status.state in LIVE_STATES
