"""What the tests of servers, chat and manager have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from aiohttp import web
from processes import eventually

from server_manager.catalogue import Catalogue
from server_manager.chat import ChatRequest, ChatService
from server_manager.chat_frames import DoneFrame, Frame, ProgressFrame, TextFrame, TurnFrame
from server_manager.client import ClientSession
from server_manager.conversations.store import ConversationStore
from server_manager.conversations.turn import Turn
from server_manager.errors import LaunchError
from server_manager.launch_plan import LaunchPlan
from server_manager.launchers.base import HandleRecord, LaunchRequest, ProcessInfo
from server_manager.launchers.local import create_launcher
from server_manager.manager import Server, ServerManager
from server_manager.server_process import ServerProcess
from server_manager.server_state import ServerExit, ServerState, ServerStatus
from server_manager.settings import Settings
from server_manager.telemetry.base import DeviceSnapshot, HostSnapshot, Reading

OWNER = "somebody"
CONVERSATION = "conversation-1"

AddModel = Callable[..., str]
"""The fixture ``add_model``."""


class FakeReadings:
    """A sampler of a machine that the test makes up: ``devices`` now, or the next of ``script`` at each reading."""

    def __init__(self) -> None:
        self.devices: Sequence[DeviceSnapshot] = ()
        self.script: list[Sequence[DeviceSnapshot]] = []
        self.rss_bytes: dict[str, int] = {}
        self.gpu_bytes: dict[str, int | None] = {}
        self.pids: dict[str, tuple[int, ...]] = {}
        self.count = 0

    @property
    def latest(self) -> Reading:
        host = HostSnapshot(64 * 2**30, 8 * 2**30, 56 * 2**30, 1.0, 8)
        return Reading(time.time(), host, tuple(self.devices), None, self.rss_bytes, self.gpu_bytes, self.pids)

    async def fresh_reading(self) -> Reading:
        self.count += 1
        if self.script:
            self.devices = self.script.pop(0)
        await asyncio.sleep(0.001)
        return self.latest


async def statuses(server: ServerProcess) -> AsyncIterator[ServerStatus]:
    """The status now and after each change; a slow reader misses intermediate ones, never the latest."""
    seen: ServerStatus | None = None
    while True:
        changed = server._cell._changed
        if server.status is not seen:
            seen = server.status
            yield seen
        else:
            await changed.wait()


class Deck:
    """The parts of an app over real processes, without a page."""

    def __init__(self, settings: Settings, session: ClientSession) -> None:
        self.settings = settings
        self.readings = FakeReadings()
        catalogue = Catalogue(settings.models_dir, settings.models_dir / "none-shipped")
        self.launcher = create_launcher(settings)
        self.manager = ServerManager(settings, catalogue, self.launcher, session, self.readings)
        self.conversations = ConversationStore()
        self.chat = ChatService(self.manager, self.conversations)

    async def ready(self, name: str) -> Server:
        return await self.manager.ensure_ready(name)

    async def stop(self, name: str) -> ServerExit | None:
        return await self.manager.server(name).stop()

    async def reach(self, name: str, state: ServerState) -> None:
        await eventually(lambda: self.manager.server(name).status.state is state, f"{name} is {state}")

    def log(self, name: str) -> str:
        return (self.settings.logs_dir / f"{name}.log").read_text(errors="replace")

    async def running(self, name: str) -> int:
        """Requests in the server, by its own count."""
        metrics = await self.manager.server(name).client().metrics()
        assert metrics is not None
        assert metrics.num_requests_running is not None
        return metrics.num_requests_running

    async def reach_running(self, name: str, count: int) -> None:
        deadline = time.monotonic() + 20
        while (found := await self.running(name)) != count:
            assert time.monotonic() < deadline, f"{found} requests in {name}"
            await asyncio.sleep(0.02)

    async def ask(
        self, model: str, text: str = "hello", *, may_start: bool = True, owner: str = OWNER, **fields: Any
    ) -> Answer:
        """One whole answer."""
        answer = Answer()
        most = fields.pop("most", None)
        request = ChatRequest(fields.pop("conversation", CONVERSATION), model, text, **fields)
        async with aclosing(self.chat.answer(request, owner=owner, may_start=may_start, most=most)) as frames:
            async for frame in frames:
                answer.add(frame)
        return answer

    async def turns(self, conversation: str = CONVERSATION, owner: str = OWNER) -> Sequence[Turn]:
        """What is shown of a conversation."""
        return (await self.conversations.look(conversation, owner)).turns

    async def is_busy(self, conversation: str = CONVERSATION) -> bool:
        return (await self.conversations.look(conversation, OWNER)).busy


class Answer:
    """The frames of an answer, sorted by kind."""

    def __init__(self) -> None:
        self.progress: list[ProgressFrame] = []
        self.turn: TurnFrame | None = None
        self.texts: list[TextFrame] = []
        self.done: DoneFrame | None = None

    def add(self, frame: Frame) -> None:
        match frame:
            case ProgressFrame():
                self.progress.append(frame)
            case TurnFrame():
                self.turn = frame
            case TextFrame():
                self.texts.append(frame)
            case DoneFrame():
                self.done = frame

    @property
    def content(self) -> str:
        return "".join(frame.content for frame in self.texts)


class StubServer:
    """An HTTP server in the test's own process: what a model server answers, switched by the test."""

    def __init__(self) -> None:
        self.health = 503
        self.requests: list[dict[str, Any]] = []
        self.stream: Callable[[web.StreamResponse], Any] | None = None
        self.rejection: tuple[int, bytes] | None = None
        self.routes: list[str] = []
        """Those of sleep mode that were asked, in order."""
        self.sleep_level = 0
        self.dropped = False
        """The weights, by level 2."""
        self.wake = "good"
        self.may_move = asyncio.Event()
        """Until it is set it goes on falling asleep."""
        self.may_move.set()
        self.questions_of_sleep = 0
        self.tells_level = True
        """Whether its metrics do."""
        self.completes: int | None = None
        """The status with which text completion is refused."""
        self.answer_completion: Callable[[dict[str, Any]], tuple[int, object]] | None = None
        """Status and body for a request for a completion; without it one token comes."""
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> StubServer:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/sleep", self._sleep)
        app.router.add_post("/wake_up", self._wake_up)
        app.router.add_get("/is_sleeping", self._is_sleeping)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/collective_rpc", self._rpc)
        app.router.add_post("/reset_prefix_cache", self._rpc)
        app.router.add_post("/v1/completions", self._complete)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=self.health)

    async def _sleep(self, request: web.Request) -> web.Response:
        self.routes.append(request.path_qs)
        await self.may_move.wait()
        self.sleep_level = int(request.query["level"])
        self.dropped = self.sleep_level == 2
        return web.Response()

    async def _wake_up(self, request: web.Request) -> web.Response:
        self.routes.append(request.path_qs)
        if self.wake == "error":
            return web.json_response({"error": {"message": "CUDA Error: out of memory"}}, status=500)
        if self.wake != "half" and request.query.get("tags") != "weights":
            self.sleep_level = 0
        return web.Response()

    async def _rpc(self, request: web.Request) -> web.Response:
        self.routes.append(request.path_qs)
        self.dropped = self.dropped and request.path != "/collective_rpc"
        return web.json_response({"results": [None]})

    async def _is_sleeping(self, request: web.Request) -> web.Response:
        self.questions_of_sleep += 1
        await self.may_move.wait()
        return web.json_response({"is_sleeping": self.sleep_level > 0})

    async def _metrics(self, request: web.Request) -> web.Response:
        states = ("awake", "weights_offloaded", "discard_all")
        text = "".join(
            f'vllm:engine_sleep_state{{engine="0",sleep_state="{state}"}} {float(self.sleep_level == level)}\n'
            for level, state in enumerate(states)
        )
        return web.Response(text=text if self.tells_level else "")

    async def _complete(self, request: web.Request) -> web.Response:
        if self.completes is not None:
            return web.json_response({"detail": "no"}, status=self.completes)
        if self.answer_completion is not None:
            self.requests.append(await request.json())
            status, body = self.answer_completion(self.requests[-1])
            return web.json_response(body, status=status)
        nonsense = self.dropped or (self.wake == "garbage" and "/wake_up" in self.routes)
        top = {"!": -0.1} if nonsense else {" Paris": -0.2, " the": -2.0}
        return web.json_response({"choices": [{"text": next(iter(top)), "logprobs": {"top_logprobs": [top]}}]})

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "stub", "max_model_len": 2048}]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        if self.rejection:
            return web.Response(status=self.rejection[0], body=self.rejection[1])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        assert self.stream is not None
        await self.stream(response)
        return response


class FakeHandle:
    """A tree of processes that does what the test says."""

    def __init__(self, record: HandleRecord) -> None:
        self.record = record
        self.pid = record.pid
        self.signals: list[str] = []
        self.obeys_sigterm = True
        self.released = False
        self.unkillable: tuple[int, ...] = ()
        self._code: int | None = None
        self._ended = asyncio.Event()

    def end(self, code: int) -> None:
        self._code = code
        self._ended.set()

    def poll(self) -> int | None:
        return self._code

    def processes(self) -> tuple[ProcessInfo, ...]:
        return ()

    def cpu_seconds(self) -> float:
        return 0.0

    async def wait(self) -> int:
        await self._ended.wait()
        assert self._code is not None
        return self._code

    def release(self) -> None:
        self.released = True

    def terminate(self) -> None:
        self.signals.append("TERM")
        if self.obeys_sigterm:
            self.end(0)

    async def kill(self) -> tuple[int, ...]:
        self.signals.append("KILL")
        await asyncio.sleep(0)
        if self._code is None and not self.unkillable:
            self.end(-9)
        return self.unkillable


class FakeLauncher:
    """Launches ``FakeHandle``; ``gate`` holds a launch until it is set."""

    def __init__(self) -> None:
        self.handles: list[FakeHandle] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: LaunchError | None = None

    @property
    def handle(self) -> FakeHandle:
        return self.handles[-1]

    async def launch(self, request: LaunchRequest) -> FakeHandle:
        await self.gate.wait()
        if self.error:
            raise self.error
        record = HandleRecord(
            name=request.name,
            launcher="fake",
            pid=2**22 + len(self.handles) + 1,
            start_ticks=1,
            boot_id="boot",
            port=request.port,
            log_path=str(request.log_path),
            tmpdir="",
            api_key="key",
            argv=request.argv,
            env=dict(request.env),
            started_at=time.time(),
        )
        request.log_path.parent.mkdir(parents=True, exist_ok=True)
        request.log_path.write_text("")
        self.handles.append(FakeHandle(record))
        return self.handle

    async def adopt(self, record: HandleRecord) -> FakeHandle | None:
        self.handles.append(FakeHandle(replace(record)))
        return self.handle


def fake_plan(
    name: str, settings: Settings, port: int, *, first_sleep: bool = False, routes: bool = True
) -> LaunchPlan:
    env = {"VLLM_SERVER_DEV_MODE": "1"} if routes else {}
    request = LaunchRequest(name, ("vllm", "serve", "m", "--enable-sleep-mode"), env, settings.logs_dir / "x.log", port)
    return LaunchPlan(request, "vllm serve m", shutdown_timeout=0.2, first_sleep=first_sleep)
