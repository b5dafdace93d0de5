"""One server with a launcher that does what the test says, and the events that can befall it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from fakes import FakeLauncher, FakeReadings, StubServer, fake_plan
from processes import eventually

from server_manager.client import ClientSession
from server_manager.errors import LaunchError, SpecError
from server_manager.handle_store import HandleStore
from server_manager.launch_plan import LaunchPlan
from server_manager.server_dependencies import Dependencies
from server_manager.server_process import ServerProcess
from server_manager.server_state import ServerState
from server_manager.settings import Settings


@dataclass
class Stage:
    """One server, and the events that can befall it."""

    settings: Settings
    session: ClientSession
    http: StubServer
    launcher: FakeLauncher = field(default_factory=FakeLauncher)
    plan_gate: asyncio.Event = field(default_factory=asyncio.Event)
    plan_error: BaseException | None = None
    plans: int = 0
    restarts: int = 0
    first_sleep: bool = False
    routes: bool = True

    def __post_init__(self) -> None:
        self.plan_gate.set()
        self.store = HandleStore(self.settings.records_dir)
        shared = Dependencies(self.settings, self.launcher, self.store, self.session, FakeReadings())
        self.server = ServerProcess("m", self._plan, shared, lambda: self.restarts)
        self.tasks: list[asyncio.Task[object]] = []

    async def _plan(self, progress: Callable[[str], None]) -> LaunchPlan:
        self.plans += 1
        progress("looking for a port")
        await self.plan_gate.wait()
        if self.plan_error:
            raise self.plan_error
        return fake_plan("m", self.settings, self.http.port, first_sleep=self.first_sleep, routes=self.routes)

    def background(self, work: object) -> asyncio.Task[object]:
        task: asyncio.Task[object] = asyncio.ensure_future(work)  # type: ignore[arg-type]
        self.tasks.append(task)
        return task

    async def reach(self, state: ServerState) -> None:
        await eventually(lambda: self.server.status.state is state, f"state {state}")

    async def launched(self, count: int = 1) -> None:
        await eventually(lambda: len(self.launcher.handles) >= count, "a launch")

    async def event(self, name: str) -> None:
        match name:
            case "start":
                self.server.start()
            case "healthy":
                self.http.health = 200
            case "no health":
                self.http.health = 404
            case "engine dead":
                self.http.health = 503
            case "stop":
                self.background(self.server.stop())
            case "stop now":
                self.background(self.server.stop(now=True))
            case "sleep":
                await self.server.sleep()
            case "wake":
                await self.server.wake()
            case "launch fails":
                self.launcher.error = LaunchError("No vLLM.", "Install it.")
            case "launch works":
                self.launcher.error = None
            case "plan fails":
                self.plan_error = SpecError("No folder.", "Make it.")
            case "plan works":
                self.plan_error = None
            case "planner breaks":
                self.plan_error = ZeroDivisionError("oh")
            case "planner is cancelled":
                self.plan_error = asyncio.CancelledError()
            case "hold plan":
                self.plan_gate.clear()
            case "let plan":
                self.plan_gate.set()
            case "hold launch":
                self.launcher.gate.clear()
            case "let launch":
                self.launcher.gate.set()
            case "launched":
                await self.launched()
            case "may restart twice":
                self.restarts = 2
            case "deaf":
                self.launcher.handle.obeys_sigterm = False
            case _ if name.startswith("exit "):
                self.launcher.handle.end(int(name.removeprefix("exit ")))
            case _:
                raise ValueError(name)
