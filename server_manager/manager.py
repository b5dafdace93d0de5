"""The set of servers: which there are, starting, stopping and switching them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from server_manager.attached_server import AttachedServer
from server_manager.background import Background
from server_manager.bundled import bundled_models, converted_folder, ensure_converted
from server_manager.catalogue import Catalogue
from server_manager.client import ClientSession, ServerClient
from server_manager.errors import ManagerClosed, ServerManagerError, StartAborted, UnknownModel
from server_manager.generation_config import recommended_for
from server_manager.handle_store import HandleStore
from server_manager.hub_sizes import HubSizes
from server_manager.launch_plan import LaunchPlan, check_local_folder, make_plan
from server_manager.launchers.base import Launcher, ProcessInfo
from server_manager.memory_plan.history import MemoryHistory
from server_manager.model_spec import ModelSpec
from server_manager.server_dependencies import Dependencies
from server_manager.server_logs import make_mask
from server_manager.server_process import ServerProcess
from server_manager.server_state import LIVE_STATES, ServerExit, ServerState, ServerStatus, Waiting
from server_manager.settings import Settings
from server_manager.shell_line import shell_line
from server_manager.start_subject import start_subject
from server_manager.stop_receipt import Readings
from server_manager.switching.idle import IdleTimer, Patience
from server_manager.switching.policy import is_switchable, mistakes, sleep_after_seconds, stop_after_seconds
from server_manager.switching.rooms import Ledgers, Rooms, listed_ledgers
from server_manager.switching.switchboard import Switchboard
from server_manager.switching.view import SwitchViews

log = logging.getLogger(__name__)

CPU_DEFAULT = "SmolLM2-135M-Instruct"
GPU_DEFAULT = "Qwen2-0.5B-Instruct"


class Server(Protocol):
    """What a ``ServerProcess`` and an ``AttachedServer`` have in common."""

    name: str

    @property
    def status(self) -> ServerStatus: ...
    def processes(self) -> tuple[ProcessInfo, ...]: ...
    def client(self) -> ServerClient: ...
    def stream_lease(self) -> AbstractContextManager[None]: ...
    def start(self) -> bool: ...
    async def ensure_ready(self) -> ServerClient: ...
    async def stop(self, *, now: bool = False) -> ServerExit | None: ...
    async def sleep(self, level: int = 1) -> None: ...
    async def wake(self) -> None: ...
    async def until_started(self) -> bool: ...
    def show_waiting(self, waiting: Waiting | None) -> None: ...
    def cut_streams(self) -> None: ...
    def start_cold(self, why: str) -> None: ...
    async def leave(self) -> None: ...


class ServerManager:
    """One server for each model of the catalogue and each attached URL, made when first asked for."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        launcher: Launcher,
        session: ClientSession,
        readings: Readings,
        ledgers: Ledgers = listed_ledgers,
    ) -> None:
        """``readings`` shows the accelerators as they are now; none there means that vLLM will use the CPU.

        ``ledgers`` tells who holds their memory.
        """
        self.settings = settings
        self.catalogue = catalogue
        store = HandleStore(settings.records_dir)
        self._shared = Dependencies(
            settings, launcher, store, session, readings, lambda end: make_mask(settings, catalogue).deep(end)
        )
        self._servers: dict[str, Server] = {}
        self.memory_history = MemoryHistory(settings.memory_history_path)
        self._hub_sizes = HubSizes(settings.hub_sizes_path)
        self.rooms = Rooms(
            lambda: self._servers,
            readings,
            self.memory_history,
            settings.vllm_command[0],
            ledgers=ledgers,
            hub_bytes=self._hub_sizes.weights_bytes,
        )
        self.board = Switchboard(self.server, self.rooms, settings.switch_patience)
        self._idle = IdleTimer(self, self._patience, settings.idle_interval)
        self.switch_views = SwitchViews(
            settings, readings, self._local_specs, self.rooms, self.board, self.memory_history, self._hub_sizes
        )
        self._background = Background(lambda error: log.error("%s", error))
        self._closed = False
        self._mistakes: dict[str, tuple[str, ...]] = {}
        """In what models say of idle times, as it was told last."""
        self._noted: str | None = None
        """The model that stands in the file of the one used last."""

    # The app's own life

    async def open(self) -> None:
        """Adopts the servers that an earlier app left on purpose, and begins to look at the attached ones."""
        self._idle.start()
        for name in self.settings.attach:
            self.server(name).start()
        for record in self._shared.store.load_all():
            server = self._process(record.name)
            try:
                if await server.adopt(record, shell_line(record.argv, record.env)):
                    self._servers[record.name] = server
                    self.rooms.adopted(record.name, record.will_hold)
                    log.info("adopted %s, pid %d", record.name, record.pid)
                else:
                    self._shared.store.remove(record.name)
            except ServerManagerError as error:  # the record stays: the next app tries again
                log.error("%s", error)

    async def close(self) -> None:
        """Ends every server (or lets go of it, with ``--keep-servers``). New starts are refused from now on."""
        self._closed = True
        self._background.close()
        await self._idle.stop()
        await self.board.close()
        await self.switch_views.close()
        await self._hub_sizes.close()

        async def end(server: Server) -> None:
            if self.settings.keep_servers or server.status.attached:
                await server.leave()
            else:
                await server.stop(now=True)

        results = await asyncio.gather(*map(end, self._servers.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                log.error("ending a server failed: %s", result)

    # Looking

    def names(self) -> tuple[str, ...]:
        """Every model that can be asked for: attached servers, the catalogue, and what still runs without a file."""
        live = (name for name, server in self._servers.items() if server.status.state in LIVE_STATES)
        return tuple(dict.fromkeys((*self.settings.attach, *self.catalogue.names(), *live)))

    def live(self) -> dict[str, Server]:
        """Those of which processes may exist, by name, and the attached ones that have been looked at."""
        return {
            name: server
            for name, server in self._servers.items()
            if server.status.state in LIVE_STATES or server.status.attached
        }

    def server(self, name: str) -> Server:
        """The server of that name. Raises ``UnknownModel``, or ``SpecError`` where the model's file cannot be read."""
        if name in (live := self.live()):  # without a look at the disk, which costs half a millisecond
            return live[name]
        if name not in self.names():
            try:
                self.catalogue.get(name)
            except UnknownModel:
                known = ", ".join(self.names())
                raise UnknownModel(f"There is no model {name!r}.", f"Known: {known}.", name=name) from None
        if name in self._servers:
            return self._servers[name]
        if name in self.settings.attach:
            server: Server = AttachedServer(
                name, self.settings.attach[name], self._shared.session, self.settings.attach_api_key
            )
            self._servers[name] = server
            return server
        server = self._servers[name] = self._process(name)
        return server

    def statuses(self) -> dict[str, ServerStatus]:
        """The status of every model, in the order of ``names()``."""
        return {
            name: self._servers[name].status if name in self._servers else ServerStatus(name) for name in self.names()
        }

    def processes(self) -> dict[str, tuple[ProcessInfo, ...]]:
        """The living processes by server. Blocking: the sampler calls it in a thread."""
        return {name: server.processes() for name, server in tuple(self._servers.items())}

    def markers(self) -> frozenset[str]:
        """What marks the processes of every server that is not ended."""
        servers = (server for server in self._servers.values() if isinstance(server, ServerProcess))
        return frozenset(server.marker for server in servers if server.marker)

    def default_name(self, *, cpu_only: bool) -> str | None:
        """The model to start with: the one used last, else a small one that this machine can serve."""
        known = self.names()
        fallback = CPU_DEFAULT if cpu_only else GPU_DEFAULT
        last = self._last_used()
        return next((name for name in (last, fallback, *known) if name in known), None)

    def local_files(self, spec: ModelSpec) -> ModelSpec:
        """The spec with its model where its files are on this disk, if we made them (the bundled model)."""
        folder = converted_folder(spec.model, self.settings.cache_dir)
        return replace(spec, model=str(folder)) if folder else spec

    def recommended_sampling(self, spec: ModelSpec) -> Mapping[str, float]:
        """By request field, also of the bundled model before it is converted. Reads files: call it in a thread."""
        bundled = bundled_models().get(spec.model)
        ours = bundled.sampling if bundled and spec.options.get("generation-config", "auto") == "auto" else {}
        return {**ours, **recommended_for(self.local_files(spec))}

    def _local_specs(self) -> list[ModelSpec]:
        return [self.local_files(spec) for spec in self.catalogue.specs()]

    # Doing

    def start(self, name: str) -> Server:
        """Begins a start in the background, if none is on, and returns at once."""
        self._require_open()
        server = self.server(name)
        self._remember(name)
        server.start()
        return server

    async def ensure_ready(self, name: str) -> Server:
        """The server once it is ready. Raises what ``Server.ensure_ready`` raises."""
        async with self.use(name) as server:
            return server

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Server]:
        """The server, ready, and in use by the current task until the block is left.

        A stop lets that task go on for vLLM's ``shutdown-timeout`` and cancels it then, a server that has to make room
        after ``switch_patience``. Raises what ``ensure_ready`` raises.
        """
        async with self.use(name) as server:
            with server.stream_lease():
                yield server

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Server]:
        """The server, ready, and not put to sleep until the block is left. Raises what ``ensure_ready`` raises."""
        self._require_open()
        self.server(name)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self.board.use(name))
            except StartAborted:
                self._require_open()  # then it was the app's end that ended the start
                raise
            self._remember(name)
            yield self.server(name)

    def switch(self, name: str, leaving: str | None = None, sparing: str | None = None) -> Server:
        """Begins to bring ``name`` up, and returns at once.

        Where others have to make room, ``leaving`` is the first and ``sparing`` none of them. Without a GPU, where
        nothing can sleep, ``leaving`` is stopped.
        """
        self._require_open()
        target = self.server(name)
        other = self._servers.get(leaving) if leaving and leaving != name else None
        leaves = other is not None and not other.status.attached and other.status.state in LIVE_STATES
        self.rooms.prefer(name, leaving if leaves else None, sparing)
        self._remember(name)
        if target.status.state is ServerState.ASLEEP:
            self._background.begin(self.board.bring_up(name))
        elif not target.start() and leaves and other is not None and other.status.sleep is None:
            self._background.begin(other.stop())  # no plan of the target's start will ask for it
        return target

    async def wake(self, name: str) -> None:
        """Wakes a sleeping server as soon as there is room. Raises ``InsufficientMemory`` or ``ChatError``."""
        try:
            await self.board.wake(name, lambda fresh: self.rooms.for_wake(name, self.board, fresh))
        finally:
            self.rooms.prefer(name, None, None)

    async def sleep(self, name: str, level: int = 1) -> None:
        """Puts a server to sleep as soon as nobody uses it. Raises ``NotAllowed`` or ``ChatError``."""
        await self.board.put_to_sleep(name, level)

    def idle_since(self, name: str) -> float | None:
        """Unix time in seconds of its last use; ``None`` while somebody uses it or waits for it."""
        uses = self.board.uses
        return None if uses.count(name) or uses.waiting(name) else uses.last_used(name)

    async def end_idle(self, name: str) -> None:
        """Stops a server that nobody uses. Raises what ``Server.stop`` raises."""
        await self.board.stop_unused(name)

    # Parts

    def _patience(self, name: str) -> Patience:
        try:
            spec = self.catalogue.get(name)
        except ServerManagerError:  # its file is gone, or cannot be read
            return Patience()
        if (found := mistakes(spec)) != self._mistakes.get(name, ()):
            self._mistakes[name] = found
            for mistake in found:  # once, not at each look
                log.warning("%s", mistake)
        return Patience(sleep_after_seconds(spec), stop_after_seconds(spec))

    def _process(self, name: str) -> ServerProcess:
        return ServerProcess(
            name,
            lambda progress: self._plan(name, progress),
            self._shared,
            lambda: self._restarts(name),
            waker=lambda: self.wake(name),
        )

    def _restarts(self, name: str) -> int:
        """How often a crashed server may be started again, by its model's file as it now is."""
        try:
            return self.catalogue.get(name).restarts
        except ServerManagerError:  # it is gone, or cannot be read: then it cannot be started either
            return 0

    async def _plan(self, name: str, progress: Callable[[str], None]) -> LaunchPlan:
        """Everything before the process: the files, its turn, the memory."""
        self._require_open()
        spec = self.catalogue.get(name)
        if spec.model not in bundled_models():
            check_local_folder(spec, spec.model)  # before a server that serves makes room for one that cannot
        model = spec.model
        if model in bundled_models():
            model = str(await ensure_converted(model, self.settings.cache_dir, self.settings.vllm_command[0], progress))
        try:
            decision = await self.board.room_for_start(
                name, lambda fresh: self.rooms.for_start(spec, model, self.board), progress
            )
        finally:
            self.rooms.prefer(name, None, None)
        reading = self._shared.readings.latest or await self._shared.readings.fresh_reading()
        plan = make_plan(
            spec,
            self.settings,
            model=model,
            cpu_only=not reading.devices,
            planned=decision.options_to_add,
            planned_env=decision.env_to_add,
            will_hold=decision.will_hold,
            switchable=is_switchable(spec),
        )
        python = self.settings.vllm_command[0]
        subject = start_subject(model, plan.options, plan.request.env, devices=reading.devices, vllm_python=python)
        return replace(plan, subject=subject)

    def _require_open(self) -> None:
        if self._closed:
            raise ManagerClosed("vLLM Deck is shutting down.", "Start it again to go on.")

    @property
    def _last_used_path(self) -> Path:
        return self.settings.state_dir / "last-model"

    def _last_used(self) -> str | None:
        try:
            return self._last_used_path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None

    def _remember(self, name: str) -> None:
        if name == self._noted:
            return  # for each request of the gateway: no look at the disk
        try:
            self._last_used_path.write_text(f"{name}\n", encoding="utf-8")
            self._noted = name
        except OSError as error:  # only the next default depends on it
            log.warning("cannot note the model used last: %s", error)
