"""One ``vllm serve`` and its state.

Each life of a server, from the request to start until nothing of it is left, is one task, and that task is the only
writer of its state. Everybody else asks: ``ensure_ready()`` joins the life that is on or begins one, ``stop()`` asks
it to end. So a start belongs to the server, not to the click or the browser tab that asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from server_manager.client import ServerClient
from server_manager.errors import (
    ChatError,
    InsufficientMemory,
    ManagerClosed,
    NotAllowed,
    ServerManagerError,
    StopError,
)
from server_manager.exit_report import report_end, report_survivors, start_error
from server_manager.launch_plan import Planner
from server_manager.launchers.base import HandleRecord, ProcessInfo, ServerHandle
from server_manager.memory_parts import MemoryReader
from server_manager.polite_end import OpenStreams, end_tree
from server_manager.readiness import until_ready
from server_manager.restart_policy import Restarter
from server_manager.server_dependencies import Dependencies
from server_manager.server_state import ExitCause, Restart, ServerExit, ServerState, ServerStatus, Waiting
from server_manager.serving_watch import until_ended
from server_manager.sleeper import Sleeper
from server_manager.start_phase import StartPhase
from server_manager.start_run import StartRun
from server_manager.start_subject import StartSubject
from server_manager.status_cell import StatusCell, served_fields
from server_manager.stop_receipt import ReceiptTaker
from server_manager.stop_request import StopRequest, StopRequested

log = logging.getLogger(__name__)

_STOPPED, _SERVING = ServerState.STOPPED, (ServerState.READY, ServerState.ASLEEP)


class ServerProcess:
    """A model's server: at most one tree of processes at a time."""

    def __init__(
        self, name: str, planner: Planner, shared: Dependencies, restarts: Callable[[], int] = lambda: 0,
        waker: Callable[[], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        """``restarts`` says how often the server may be started again after a crash.

        ``waker`` wakes it when somebody needs it (``wake`` itself, if not given): others may have to make room.
        """
        self.name = name
        self._planner = planner
        self._shared = shared
        self._settings = shared.settings
        self._cell = StatusCell(ServerStatus(name, since=time.time()))
        self._life: asyncio.Task[ServerExit] | None = None
        self._stop = StopRequest()
        self._again = False
        """Whether a start was asked for while a life was ending."""
        self._handle: ServerHandle | None = None
        self._shutdown_timeout = shared.settings.shutdown_timeout
        self._streams = OpenStreams()
        self._sleeper = Sleeper(self._cell, self.client, self.start_cold, shared.store.amend)
        self._waker = waker or self.wake
        self._restarter = Restarter(restarts, self._start_again)

    # What everyone may know

    @property
    def status(self) -> ServerStatus:
        """The server now."""
        return self._cell.value

    @property
    def marker(self) -> str:
        """What marks the processes of the present life; empty where there are none."""
        return self._handle.record.marker if self._handle else ""

    def processes(self) -> tuple[ProcessInfo, ...]:
        """The living processes of the server. Blocking for some milliseconds: call it in a thread."""
        handle = self._handle
        return handle.processes() if handle else ()

    def client(self) -> ServerClient:
        """HTTP to the server. Raises ``NotAllowed`` where there is none."""
        if self._handle is None or self.status.base_url is None:
            raise NotAllowed(f"{self.name} is not ready.", "Start it first.")
        return ServerClient(self._shared.session, self.status.base_url, self._handle.record.api_key)

    def stream_lease(self) -> AbstractContextManager[None]:
        """Held by the task that streams an answer: a stop cancels it when vLLM's patience is over."""
        return self._streams.lease()

    # What everyone may ask for

    def start(self) -> bool:
        """Asks for a start and returns at once; whether that begins a new life (false: it joins the one that is on).

        While the server ends, the new life begins when nothing of the old one is left.
        """
        if self._on is None:
            # Any other state without a life is that of a server we have let go of.
            if self.status.state not in (ServerState.STOPPED, ServerState.FAILED):
                return False
            self._restarter.asked_for()
            self._begin(self._live)
            return True
        self._again = self._again or self._ending
        return self._ending

    async def ensure_ready(self) -> ServerClient:
        """A client of the server once it is ready: starts it, joins a start, waits for a stop, wakes it.

        Raises ``StartError`` with the reason, or ``ManagerClosed``. Cancelling ends only the waiting.
        """
        while True:
            if (ending := self._on) is not None and self._ending:
                await asyncio.wait({ending})
                continue
            match self.status.state:
                case ServerState.READY:
                    return self.client()
                case ServerState.ASLEEP:
                    with contextlib.suppress(ChatError, InsufficientMemory):  # it is being started cold
                        await self._waker()
                case _:
                    self.start()
                    await self._until_serving()

    async def until_started(self) -> bool:
        """Waits for the start that is on, or about to be; whether it serves now."""
        over = (*_SERVING, ServerState.FAILED)
        await self._cell.wait_until(lambda now: now.state in over or (now.state is _STOPPED and not self._again))
        return self.status.state in _SERVING

    def show_waiting(self, waiting: Waiting | None) -> None:
        """What it waits for, in the queue of those that are to come up."""
        if self.status.waiting != waiting:
            self._cell.update(waiting=waiting)

    def cut_streams(self) -> None:  # ends the answers that are going on
        self._streams.cut()

    async def _until_serving(self) -> None:
        """Waits for the start that is on. Raises ``StartError`` where it, and not a later one, did not succeed."""
        life, stop = self._life, self._stop
        assert life is not None
        await self._cell.wait_until(lambda status: status.state in _SERVING, unless_done=life)
        if stop.asked:  # in the moment in which it became ready
            await asyncio.wait({life})
        if life.cancelled():
            raise ManagerClosed("vLLM Deck is shutting down.", f"{self.name} goes on; start the app again.")
        if life.done():
            raise start_error(self.name, life.result())

    async def stop(self, *, now: bool = False) -> ServerExit | None:
        """Ends the server and waits until nothing of it is left; its exit, or ``None`` if there was nothing to end.

        Open answers may go on for ``shutdown_timeout`` unless ``now``. Raises ``StopError`` where a process outlives
        SIGKILL. Cancelling ends only the waiting.
        """
        self._again = False
        self._restarter.asked_for()
        if (life := self._on) is None:
            if self.status.restart is not None:
                self._cell.update(restart=None)
            return None
        self._stop.ask()
        if now:
            self._streams.cut()
        await asyncio.wait({life})
        if life.cancelled():
            return None
        end = life.result()
        if end.code == StopError.code:
            raise StopError(end.message, end.next_step)
        return end

    async def leave(self) -> None:
        """Lets go of the server without ending it (``--keep-servers``): the next app adopts it.

        A start that has no process yet is ended, and an end that is under way is waited for.
        """
        self._again = False
        self._restarter.asked_for()
        if (life := self._on) is None:
            return
        if self._handle is None:
            self._stop.ask()
        elif not self._ending:
            life.cancel()
        await asyncio.wait({life})

    async def adopt(self, record: HandleRecord, command: str) -> bool:
        """Takes over a server that an earlier app left; false where it is gone."""
        handle = await self._shared.launcher.adopt(record)
        if handle is None:
            return False
        if self._settings.keep_servers:
            handle.release()
        self._handle = handle
        self._begin(lambda: self._live_adopted(handle, command))
        return True

    async def sleep(self, level: int = 1) -> None:
        """Puts a ready server to sleep. Raises ``NotAllowed`` where it was not started for that, or ``ChatError``."""
        await self._sleeper.sleep(level)

    async def wake(self) -> None:
        """Wakes it if it sleeps. Raises ``ChatError`` where it did not wake well; it is being started cold then."""
        await self._sleeper.wake()

    # A life

    @property
    def _on(self) -> asyncio.Task[ServerExit] | None:
        """The present life, if there is one."""
        return self._life if self._life is not None and not self._life.done() else None

    @property
    def _ending(self) -> bool:
        return self._stop.asked or self.status.state is ServerState.STOPPING

    def _begin(self, life: Callable[[], Coroutine[Any, Any, ServerExit]], restart: Restart | None = None) -> None:
        self._again = False
        self._stop = StopRequest()
        self._cell.transition(
            ServerState.STARTING,
            started_at=time.time(),
            ready_at=None,
            phase=StartPhase.PREPARE,
            exit=None,
            restart=restart,
            pid=None,
            detail="",
            progress=None,
            command="",
            memory=None,
            sleep=None,
        )
        self._life = asyncio.create_task(life(), name=f"life of {self.name}")
        self._life.add_done_callback(self._life_over)

    def _life_over(self, life: asyncio.Task[ServerExit]) -> None:
        if life.cancelled():
            return
        if self._again:
            self.start()
        else:
            ready_at = self.status.ready_at
            served_seconds = time.time() - ready_at if ready_at else 0.0
            self._cell.update(restart=self._restarter.after(life.result(), served_seconds=served_seconds))

    def start_cold(self, why: str) -> None:  # ends the present life and begins another
        log.warning("%s It is started again.", why)
        if self._on is not None:
            self._again = True
            self._stop.ask()

    def _start_again(self) -> None:
        """Once the delay after a crash is over."""
        if self._on is None and self.status.state is ServerState.FAILED:
            self._begin(self._live, self.status.restart)

    async def _live(self) -> ServerExit:
        """From the request to start until nothing is left; how it ended. Raises nothing."""

        async def start_and_serve() -> None:
            def preparing(text: str) -> None:
                self._cell.update(phase=StartPhase.PREPARE, detail=text)

            plan = await self._stop.unless_asked(self._planner(preparing))
            self._shutdown_timeout = plan.shutdown_timeout
            self._handle = handle = await self._shared.launcher.launch(plan.request)
            self._shared.store.save(handle.record)
            if self._settings.keep_servers:
                handle.release()
            await self._serve(handle, plan.command, plan.subject, first_sleep=plan.first_sleep)

        return await self._until_over(start_and_serve())

    async def _live_adopted(self, handle: ServerHandle, command: str) -> ServerExit:
        self._cell.update(started_at=handle.record.started_at)
        return await self._until_over(self._serve(handle, command, None, adopted=True))

    async def _until_over(self, life: Coroutine[Any, Any, None]) -> ServerExit:
        """Runs a life and turns the way it ends into the last status."""
        began = time.monotonic()
        try:
            await life
        except StopRequested:
            end = ServerExit(ExitCause.STOPPED, "Stopped.")
        except ServerManagerError as error:
            end = self._report(error, time.monotonic() - began)
        except Exception as error:  # whatever it is: the tree must be ended and the reason shown, not only logged
            log.exception("the life of %s ended unexpectedly", self.name)
            mistake = ServerManagerError(
                f"vLLM Deck made a mistake: {error!r}.", "Please report it with the app's log."
            )
            end = self._report(mistake, time.monotonic() - began)
        else:
            raise AssertionError("a life ends by an exception")
        return await self._finish(end)

    async def _serve(
        self, handle: ServerHandle, command: str, subject: StartSubject | None, *,
        first_sleep: bool = False, adopted: bool = False,
    ) -> None:  # fmt: skip
        """Until the server ends by itself (raises) or is asked to (``StopRequested``)."""
        record = handle.record
        self._sleeper.begin(record)
        start = await StartRun.begin(handle, subject, self._settings, self._shared.readings)
        self._cell.update(
            pid=handle.pid,
            port=record.port,
            base_url=f"http://127.0.0.1:{record.port}",
            command=command,
            kept=self._settings.keep_servers,
            phase=StartPhase.IMPORT,
            detail="",
        )
        memory = MemoryReader(lambda parts: self._cell.update(memory=parts))

        def on_lines(lines: Sequence[str]) -> None:
            memory.take(lines)
            self._cell.update(**start.fields())

        served = await until_ready(handle, self.client(), self._settings, self._stop, start, on_lines)
        asleep_at = await self._stop.unless_asked(self._sleeper.level_now()) if adopted else 0
        if first_sleep:
            start.meter.first_sleep()
            self._cell.update(**start.fields())
            await self._stop.unless_asked(self._sleeper.practise())
        self._cell.transition(
            ServerState.READY,
            ready_at=time.time(),
            phase=None,
            detail="",
            progress=await start.finished(),
            **served_fields(served),
        )
        self._sleeper.found(asleep_at)
        await until_ended(handle, self.client(), self._stop)

    async def _finish(self, end: ServerExit) -> ServerExit:
        """Ends what still lives, cleans up, and writes the last status of this life: ``end``, completed."""
        asked, was_serving = self._stop.asked, self.status.state in _SERVING
        if asked and end.cause is not ExitCause.STOPPED:
            end = ServerExit(ExitCause.STOPPED, "Stopped.")
        self._cell.transition(ServerState.STOPPING)
        survivors: tuple[int, ...] = ()
        if (handle := self._handle) is not None:
            receipt = ReceiptTaker.of_server(self.name, self._shared.readings, self._stop.asked_at if asked else None)
            patience = (self._shutdown_timeout, self._settings.kill_after) if asked and was_serving else None
            survivors = await end_tree(handle, self._streams, patience)
            end = replace(end, returncode=handle.poll(), receipt=await receipt.finish())
        self._streams.cut()
        if not survivors:  # else the next app finds them by the record, and tries again
            with contextlib.suppress(ServerManagerError):  # one that cannot be removed names a dead pid: harmless
                self._shared.store.remove(self.name)
        self._handle = None
        if asked:
            end = replace(end, seconds=time.monotonic() - self._stop.asked_at)
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
            memory=None,
            sleep=None,
            waiting=None,
            progress=None,
        )
        return end

    # Small parts

    def _report(self, error: ServerManagerError, seconds: float) -> ServerExit:
        record = self._handle.record if self._handle else None
        served = self.status.state in _SERVING
        return self._shared.masked(report_end(error, served=served, record=record, seconds=seconds))
