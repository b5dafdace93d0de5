"""A stand-in for ``vllm serve``: a real child process that behaves towards us as vLLM 0.32 does, without a model.

Started as ``python tests/fake_vllm.py serve MODEL --port P ...``. It takes any flag of vLLM (unknown ones are ignored);
its own behaviour is set by the environment, since the command line belongs to vLLM:

    FAKE_VLLM_READY_AFTER        seconds until it listens (default 0)
    FAKE_VLLM_TOKENS_PER_SECOND  of each answer (default 0: as fast as it can)
    FAKE_VLLM_ANSWER_TOKENS      length of an answer (default 8)
    FAKE_VLLM_REASONING_TOKENS   tokens of reasoning before it (default 0; needs --reasoning-parser)
    FAKE_VLLM_ECHO=1             the answer is the request's body as JSON
    FAKE_VLLM_PARROT=1           the answer is the last message, and with REASONING_TOKENS the reasoning before it too
    FAKE_VLLM_RECORDED           a file of completions of a real vLLM, given again to the same requests
    FAKE_VLLM_SIGTERM            real (default: one is swallowed while loading) | ignore | obey
    FAKE_VLLM_REPLAY             a log file, printed in place of the usual start-up lines
    FAKE_VLLM_EXIT_CODE          end with this code when READY_AFTER is over, after a traceback unless REPLAY is set
    FAKE_VLLM_CRASH_AFTER        after so many tokens the engine dies: /health is 503, then the process ends with code 0
    (killing its EngineCore process has the same effect, while it loads with code 1)
    FAKE_VLLM_CRASH_DELAY        seconds of 503 before that end (default 0.2; real vLLM takes 5)
    FAKE_VLLM_ENGINE=0           start no EngineCore process (it outlives a killed leader, as the real one does)
    FAKE_VLLM_SETSID=1           one more process that leaves the session
    FAKE_VLLM_SHM=1              EngineCore maps a psm_* file in /dev/shm, removed only at a clean end
    FAKE_VLLM_SHM_NAME           how its name begins (default "psm_fake")
    FAKE_VLLM_NOISE=1            a log line over 64 KiB, invalid UTF-8 and progress with bare carriage returns

What it holds of a GPU and how it sleeps: see ``fake_vllm_sleep.py``. Called as ``bench serve …`` it is the load
generator: see ``fake_bench.py``.

In a TMPDIR made by the launcher (``deck-*``) it leaves the files that vLLM leaves there.
"""

# ruff: noqa: E402
from __future__ import annotations

import sys

sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio does without, and a start takes a quarter less

import argparse
import asyncio
import json
import mmap
import os
import signal
import socket
import time
import traceback
from pathlib import Path
from urllib.parse import parse_qs

from fake_vllm_answers import VERSION, Engine, Exchange, Rejected, count_tokens, number, setting, unique
from fake_vllm_others import embeddings, messages, transcriptions
from fake_vllm_sleep import Sleep

# Real lines of a start on a CPU host: seconds are replaced, paths and sizes are not worth the trouble.
START_LINES = """\
APIServer|api_utils.py:347|  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0
APIServer|api_utils.py:286|non-default args: {args}
APIServer|model.py:733|Resolved architecture: LlamaForCausalLM
APIServer|model.py:2152|Using max model len {max_model_len}
EngineCore|core.py:133|Initializing a V1 LLM engine (v0.32.0) with config: model='{model}', seed=0
Worker|parallel_state.py:1906|world_size=1 rank=0 local_rank=0 distributed_init_method=file:///tmp/x backend=gloo
Worker|cpu_model_runner.py:68|Starting to load model {model}...
Worker|weight_utils.py:1108|Filesystem type for checkpoints: EXT4. Checkpoint size: 0.25 GiB. Available RAM: 21.52 GiB.
!Loading safetensors checkpoint shards:   0% Completed | 0/1 [00:00<?, ?it/s]
!Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:01<00:00,  1.67s/it]
Worker|default_loader.py:501|Loading weights took 1.67 seconds
Worker|cpu_worker.py:260|Explicitly set (1.0/9.46) GiB for KV cache on node 0.
EngineCore|kv_cache.py:2327|CPU KV cache size: 46,592 tokens, Maximum concurrency for 2,048 tokens per request: 22.75x
EngineCore|core.py:402|init engine (profile, create kv cache, warmup model) took 3.55 s
APIServer|entry.py:136|Supported tasks: ['generate']
APIServer|entry.py:140|Starting vLLM server on http://{host}:{port}"""


def log(text: str, process: str = "APIServer", source: str = "launcher.py:254", level: str = "INFO") -> None:
    """One line as vLLM writes it, to stdout."""
    when = time.strftime("%m-%d %H:%M:%S")
    os.write(1, f"({process} pid={os.getpid()}) {level} {when} [{source}] {text}\n".encode())


def raw(text: str | bytes) -> None:
    """Text as uvicorn, tqdm and tracebacks write it: no prefix, to stderr."""
    os.write(2, text if isinstance(text, bytes) else f"{text}\n".encode())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--config")
    parser.add_argument("--model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--max-model-len", default="2048")
    parser.add_argument("--shutdown-timeout", type=float, default=0)
    parser.add_argument("--stream-interval", type=int, default=1)
    parser.add_argument("--reasoning-parser")
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    parser.add_argument("--kv-cache-memory-bytes", default="")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--enable-sleep-mode", action="store_true")
    args, _ = parser.parse_known_args()
    if args.config:
        with open(args.config, encoding="utf-8") as lines:
            pairs = dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith(("#", " ")))
        given = " ".join(sys.argv)
        for key, value in pairs.items():
            name = key.strip().replace("-", "_")
            if hasattr(args, name) and f"--{key.strip()}" not in given:
                kind = type(getattr(args, name))
                text = value.split(" #")[0].strip().strip("'\"")
                setattr(args, name, kind(text) if kind in (int, float) else text)
    args.model = args.model_tag or args.model or "Qwen/Qwen3-0.6B"
    names = args.served_model_name or [args.model]
    args.names = names if isinstance(names, list) else [names]
    text = str(args.max_model_len).lower()
    args.max_model_len = int(text) if text.isdigit() else int(float(text[:-1]) * 1024) if text[-1:] == "k" else 2048
    return args


def fork_child(name: str, *, leave_session: bool = False, shm: str = "") -> int:
    """A process that does nothing until it is killed; forked before there is a loop or a socket."""
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if leave_session:
        os.setsid()
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(name)
    if shm:
        descriptor = os.open(f"/dev/shm/{shm}", os.O_CREAT | os.O_RDWR, 0o600)
        os.ftruncate(descriptor, 4096)
        mapped = mmap.mmap(descriptor, 4096)
        mapped[0] = 1
        os.close(descriptor)
    while True:
        signal.pause()


class Server(Engine):
    """The whole server: state, routes, answers."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, Sleep(args))
        self.phase = "loading"
        self.sigterms = 0
        self.ended = asyncio.Event()
        self.children: list[int] = []
        self.shm = f"{setting('SHM_NAME', 'psm_fake')}{unique()[:8]}" if setting("SHM") else ""
        self.dev_mode = os.environ.get("VLLM_SERVER_DEV_MODE") == "1"

    # -- life ----------------------------------------------------------------------------------------------------

    def spawn_children(self) -> None:
        if setting("ENGINE", "1") != "0":
            self.children.append(fork_child("VLLM::EngineCor", shm=self.shm))
            self.sleep.holder = self.children[0]
        if setting("SETSID"):
            self.children.append(fork_child("VLLM::Left", leave_session=True))
        folder = os.environ.get("TMPDIR", "")
        if os.path.basename(folder).startswith("deck-"):
            for _ in range(7):
                with socket.socket(socket.AF_UNIX) as left:
                    left.bind(f"{folder}/{unique()}")
            with open(f"{folder}/vllm_dist_{unique()}", "w", encoding="ascii"):
                pass

    def kill_children(self) -> None:
        self.engine_dead = True
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.children.clear()
        if self.shm and os.path.exists(f"/dev/shm/{self.shm}"):
            os.unlink(f"/dev/shm/{self.shm}")

    async def load(self) -> None:
        """Prints the phases of a start, spread over its time."""
        seconds = number("READY_AFTER")
        if setting("NOISE"):
            log("x" * 70_000)
            raw(b"broken \xff\xfe utf-8\n")
            raw(b"".join(b"\rCapturing CUDA graphs (decode, FULL): %3d%%|##| %d/4" % (i * 25, i) for i in range(5)))
            raw(b"\n")
        if path := setting("REPLAY"):
            lines = Path(path).read_bytes().splitlines(keepends=True)
            for line in lines:
                os.write(1, line)
                await asyncio.sleep(seconds / len(lines))
        else:
            lines_of_start = self.sleep.gpu_lines(START_LINES.splitlines())
            for text in lines_of_start:
                if text.startswith("!"):
                    raw("\r" + text[1:])
                else:
                    process, source, message = text.split("|", 2)
                    known = {k: v for k, v in vars(self.args).items() if k not in ("args", "command")}
                    log(message.format(**known, args=known), process, source)
                await asyncio.sleep(seconds / len(lines_of_start))
        if refusal := self.sleep.refusal():
            log(refusal, "EngineCore", "core.py:1231", "ERROR")
            raw(f"(EngineCore pid={os.getpid()}) {refusal}")
            raw("RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}")
            self.kill_children()
            raise SystemExit(1)
        if code := setting("EXIT_CODE"):
            if not setting("REPLAY"):
                try:
                    raise RuntimeError("Engine core initialization failed. See root cause above.")
                except RuntimeError:
                    raw(traceback.format_exc())
            self.kill_children()
            raise SystemExit(int(code))

    def on_signal(self, number_: int) -> None:
        mode = setting("SIGTERM", "real")
        self.sigterms += 1
        if mode == "ignore" or (self.phase == "loading" and mode == "real" and self.sigterms == 1):
            return
        if self.phase == "loading":
            self.kill_children()
            # vLLM ends by KeyboardInterrupt here, so its returncode is -2.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        elif self.phase == "serving":
            self.phase = "stopping"
            self.stopping = asyncio.ensure_future(self.stop())

    def on_child_end(self) -> None:
        """EngineCore was killed: vLLM answers 503 and ends with code 0, or with 1 while it loads."""
        for pid in list(self.children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self.children.remove(pid)
                self.crashing = asyncio.ensure_future(self.crash())

    async def stop(self) -> None:
        """Open requests get ``--shutdown-timeout``; then the engine dies and the HTTP server waits for its clients."""
        log("[shutdown] API server: shutdown triggered")
        self.listener.close()
        deadline = time.monotonic() + self.args.shutdown_timeout
        while self.running and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.kill_children()
        raw("INFO:     Shutting down")
        if self.running:
            raw("INFO:     Waiting for connections to close. (CTRL+C to force quit)")
        while self.running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        raw("INFO:     Waiting for application shutdown.\nINFO:     Application shutdown complete.")
        self.ended.set()

    async def crash(self) -> None:
        self.kill_children()
        log("EngineCore encountered a fatal error.", source="core.py:1000", level="ERROR")
        await asyncio.sleep(number("CRASH_DELAY", 0.2))
        os._exit(0 if self.phase == "serving" else 1)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number_ in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number_, self.on_signal, number_)
        loop.add_signal_handler(signal.SIGCHLD, self.on_child_end)
        bound = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sends at once only where it is said
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((self.args.host, self.args.port))
        except OSError:
            raw(traceback.format_exc())
            self.kill_children()
            raise SystemExit(1) from None
        await self.load()
        self.listener = await asyncio.start_server(self.connection, sock=bound, backlog=1024, limit=2**24)
        self.phase = "serving"
        raw(f"INFO:     Started server process [{os.getpid()}]\nINFO:     Waiting for application startup.")
        raw("INFO:     Application startup complete.")
        await self.ended.wait()

    # -- HTTP ----------------------------------------------------------------------------------------------------

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                path, _, query = target.partition("?")
                exchange = Exchange(reader, writer, method, path, headers, body, query)
                try:
                    await self.route(exchange)
                except Rejected as error:
                    exchange.answer(error.status, error.body)
                await writer.drain()
                if not exchange.path.startswith("/metrics"):
                    peer = writer.get_extra_info("peername") or ("127.0.0.1", 0)
                    raw(f'INFO:     {peer[0]}:{peer[1]} - "{method} {target} HTTP/1.1" {exchange.status}')
                if headers.get("connection", "").lower() == "close" or self.phase == "stopping":
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def route(self, x: Exchange) -> None:
        key = os.environ.get("VLLM_API_KEY")
        if key and x.path.startswith("/v1") and x.headers.get("authorization") != f"Bearer {key}":
            x.answer(401, {"error": "Unauthorized"})
            return
        match (x.method, x.path):
            case ("GET", "/health"):
                x.answer(503 if self.engine_dead else 200, b"")
            case ("GET", "/version"):
                x.answer(200, {"version": VERSION})
            case ("GET", "/load"):
                x.answer(200, {"server_load": 0})
            case ("GET", "/v1/models"):
                x.answer(200, {"object": "list", "data": [self.card(name) for name in self.args.names]})
            case ("GET", "/metrics"):
                x.answer(200, self.metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
            case ("POST", "/tokenize"):
                request = json.loads(x.body)
                count = count_tokens(request.get("messages") or request.get("prompt", ""))
                tokens = list(range(count))
                x.answer(200, {"count": count, "max_model_len": self.max_model_len, "tokens": tokens})
            case ("POST", "/v1/chat/completions"):
                await self.generate(x, chat=True)
            case ("POST", "/v1/completions"):
                await self.generate(x, chat=False)
            case ("POST", "/v1/messages" | "/v1/messages/count_tokens"):
                await messages(self, x)
            case ("POST", "/v1/embeddings"):
                await embeddings(self, x)
            case ("POST", "/v1/audio/transcriptions"):
                await transcriptions(self, x)
            case (_, "/is_sleeping" | "/sleep" | "/wake_up" | "/collective_rpc" | "/reset_prefix_cache") if (
                self.dev_mode
            ):
                await self.sleep_route(x)
            case _:
                x.answer(404, {"detail": "Not Found"})

    async def sleep_route(self, x: Exchange) -> None:
        query = parse_qs(x.query)
        match x.path:
            case "/is_sleeping":
                x.answer(200, {"is_sleeping": await self.sleep.is_sleeping()})
                return
            case "/sleep":
                await self.sleep.sleep(int(query.get("level", ["1"])[0]))
            case "/wake_up":
                if not await self.sleep.wake(query.get("tags", [])):
                    self.kill_children()
                    os._exit(1)
            case "/collective_rpc":
                self.sleep.weights_dropped = self.sleep.weights_dropped and b"reload_weights" not in x.body
        x.answer(200, {"results": [None]} if x.path == "/collective_rpc" else b"")


def main() -> None:
    if sys.argv[1:2] == ["bench"]:
        from fake_bench import main as generate  # noqa: PLC0415  # the server starts quicker without it

        generate(sys.argv[3:])
        return
    args = parse_arguments()
    signal.signal(signal.SIGTERM, signal.SIG_IGN) if setting("SIGTERM") == "ignore" else None
    server = Server(args)
    server.spawn_children()
    try:
        asyncio.run(server.run())
    finally:
        server.kill_children()


if __name__ == "__main__":
    main()
