"""A stand-in for ``vllm serve``: a real child process that behaves towards us as vLLM 0.32 does, without a model.

Started as ``python tests/fake_vllm.py serve MODEL --port P ...``. It takes any flag of vLLM (unknown ones are ignored);
its own behaviour is set by the environment, since the command line belongs to vLLM:

    FAKE_VLLM_READY_AFTER        seconds until it listens (default 0)
    FAKE_VLLM_TOKENS_PER_SECOND  of each answer (default 0: as fast as it can)
    FAKE_VLLM_ANSWER_TOKENS      length of an answer (default 8)
    FAKE_VLLM_REASONING_TOKENS   tokens of reasoning before it (default 0; needs --reasoning-parser)
    FAKE_VLLM_ECHO=1             the answer is the request's body as JSON
    FAKE_VLLM_SIGTERM            real (default: one is swallowed while loading) | ignore | obey
    FAKE_VLLM_REPLAY             a log file, printed in place of the usual start-up lines
    FAKE_VLLM_EXIT_CODE          end with this code when READY_AFTER is over, after a traceback unless REPLAY is set
    FAKE_VLLM_CRASH_AFTER        after so many tokens the engine dies: /health is 503, then the process ends with code 0
    FAKE_VLLM_CRASH_DELAY        seconds of 503 before that end (default 0.2; real vLLM takes 5)
    FAKE_VLLM_ENGINE=0           start no EngineCore process (it outlives a killed leader, as the real one does)
    FAKE_VLLM_SETSID=1           one more process that leaves the session
    FAKE_VLLM_SHM=1              EngineCore maps a psm_* file in /dev/shm, removed only at a clean end
    FAKE_VLLM_NOISE=1            a log line over 64 KiB, invalid UTF-8 and progress with bare carriage returns
    FAKE_VLLM_SLEEP_SECONDS      how long /sleep and /wake_up take (default 0)

In a TMPDIR made by the launcher (``deck-*``) it leaves the files that vLLM leaves there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import signal
import socket
import sys
import time
import traceback
import uuid
from pathlib import Path

VERSION = "0.32.0"

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


def setting(name: str, default: str = "") -> str:
    return os.environ.get(f"FAKE_VLLM_{name}", default)


def number(name: str, default: float = 0) -> float:
    return float(setting(name) or default)


def log(text: str, process: str = "APIServer", source: str = "launcher.py:254", level: str = "INFO") -> None:
    """One line as vLLM writes it, to stdout."""
    when = time.strftime("%m-%d %H:%M:%S")
    os.write(1, f"({process} pid={os.getpid()}) {level} {when} [{source}] {text}\n".encode())


def raw(text: str | bytes) -> None:
    """Text as uvicorn, tqdm and tracebacks write it: no prefix, to stderr."""
    os.write(2, text if isinstance(text, bytes) else f"{text}\n".encode())


class Rejected(Exception):
    """An answer of vLLM's that is an error."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


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


class Server:
    """The whole server: state, routes, answers."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.max_model_len: int = args.max_model_len
        self.phase = "loading"
        self.sigterms = 0
        self.asleep = False
        self.running = 0
        self.waiting = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.connections = 0
        self.engine_dead = False
        self.ended = asyncio.Event()
        self.children: list[int] = []
        self.shm = f"psm_fake{uuid.uuid4().hex[:8]}" if setting("SHM") else ""
        self.dev_mode = os.environ.get("VLLM_SERVER_DEV_MODE") == "1"

    # -- life ----------------------------------------------------------------------------------------------------

    def spawn_children(self) -> None:
        if setting("ENGINE", "1") != "0":
            self.children.append(fork_child("VLLM::EngineCor", shm=self.shm))
        if setting("SETSID"):
            self.children.append(fork_child("VLLM::Left", leave_session=True))
        folder = os.environ.get("TMPDIR", "")
        if os.path.basename(folder).startswith("deck-"):
            for _ in range(7):
                with socket.socket(socket.AF_UNIX) as left:
                    left.bind(f"{folder}/{uuid.uuid4()}")
            with open(f"{folder}/vllm_dist_{uuid.uuid4().hex}", "w", encoding="ascii"):
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
            lines_of_start = START_LINES.splitlines()
            for text in lines_of_start:
                if text.startswith("!"):
                    raw("\r" + text[1:])
                else:
                    process, source, message = text.split("|", 2)
                    known = {k: v for k, v in vars(self.args).items() if k not in ("args", "command")}
                    log(message.format(**known, args=known), process, source)
                await asyncio.sleep(seconds / len(lines_of_start))
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
        os._exit(0)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number_ in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number_, self.on_signal, number_)
        bound = socket.socket()
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
                exchange = Exchange(reader, writer, method, target.partition("?")[0], headers, body)
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
            case ("GET", "/is_sleeping") if self.dev_mode:
                x.answer(200, {"is_sleeping": self.asleep})
            case ("POST", "/sleep" | "/wake_up") if self.dev_mode:
                await asyncio.sleep(number("SLEEP_SECONDS"))
                self.asleep = x.path == "/sleep"
                x.answer(200, b"")
            case _:
                x.answer(404, {"detail": "Not Found"})

    def card(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "vllm",
            "root": self.args.model,
            "parent": None,
            "max_model_len": self.max_model_len,
            "permission": [],
        }

    def metrics(self) -> str:
        label = f'engine="0",model_name="{self.args.names[0]}"'
        state = f'vllm:engine_sleep_state{{{label},sleep_state="awake"}} {0.0 if self.asleep else 1.0}'
        kinds = {
            "num_requests_running": ("gauge", self.running - self.waiting),
            "num_requests_waiting": ("gauge", self.waiting),
            "kv_cache_usage_perc": ("gauge", min(1.0, self.running / 100)),
            "prompt_tokens_total": ("counter", self.prompt_tokens),
            "generation_tokens_total": ("counter", self.generation_tokens),
        }
        lines = [state]
        for name, (kind, value) in kinds.items():
            lines += [f"# HELP vllm:{name} {name}.", f"# TYPE vllm:{name} {kind}"]
            lines.append(f"vllm:{name}{{{label}}} {float(value)}")
        return "\n".join(lines) + "\n"

    # -- answers -------------------------------------------------------------------------------------------------

    def check(self, request: dict, prompt_tokens: int) -> None:
        if request.get("model") and request["model"] not in self.args.names:
            aliases = ", ".join(self.args.names)
            text = f"The model `{request['model']}` does not exist. Valid aliases: {aliases}."
            raise Rejected(404, text, "NotFoundError", "model")
        limit = self.max_model_len
        if prompt_tokens > limit:
            text = (
                f"This model's maximum context length is {limit} tokens. However, your prompt contains at least "
                f"{limit + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce the "
                f"length of the input prompt. (parameter=input_tokens, value={limit + 1})"
            )
            raise Rejected(400, text, param="input_tokens")
        wanted = request.get("max_completion_tokens") or request.get("max_tokens") or 0
        if wanted > limit:
            text = (
                f"max_tokens={wanted} cannot be greater than max_model_len={limit}. Please request fewer output "
                f"tokens. (parameter=max_tokens, value={wanted})"
            )
            raise Rejected(400, text, param="max_tokens")

    def answer_tokens(self, request: dict) -> tuple[list[tuple[str, str]], str]:
        """Pairs of field (``reasoning`` or ``content``) and text, and the finish reason."""
        if setting("ECHO"):
            text = json.dumps(request, ensure_ascii=False)
            return [("content", text[i : i + 16]) for i in range(0, len(text), 16)], "stop"
        tokens = [("content", f"word{i} ") for i in range(int(number("ANSWER_TOKENS", 8)))]
        thinks = (request.get("chat_template_kwargs") or {}).get("enable_thinking", True)
        if self.args.reasoning_parser and thinks:
            tokens[:0] = [("reasoning", f"thought{i} ") for i in range(int(number("REASONING_TOKENS")))]
        wanted = request.get("max_completion_tokens") or request.get("max_tokens")
        if wanted and request.get("ignore_eos"):
            tokens = [("content", f"word{i} ") for i in range(wanted)]
        if wanted and wanted <= len(tokens):
            return tokens[:wanted], "length"
        return tokens, "stop"

    async def generate(self, x: Exchange, *, chat: bool) -> None:
        try:
            request = json.loads(x.body)
        except ValueError as error:
            raise Rejected(400, f"JSON decode error: {error}") from None
        prompt_tokens = count_tokens(request.get("messages" if chat else "prompt") or "")
        self.check(request, prompt_tokens)
        if self.engine_dead:
            raise Rejected(500, "EngineCore encountered an issue.", "InternalServerError")
        tokens, finish = self.answer_tokens(request)
        self.running += 1
        try:
            if await self.awake(x):
                self.prompt_tokens += prompt_tokens
                answer = Answer(self, x, request, chat, prompt_tokens, tokens, finish)
                await (answer.stream() if request.get("stream") else answer.whole())
        finally:
            self.running -= 1

    async def awake(self, x: Exchange) -> bool:
        """Requests to a sleeping server wait until it wakes; ``False`` when the client gave up."""
        self.waiting += 1
        try:
            while self.asleep:
                if x.gone:
                    return False
                await asyncio.sleep(0.01)
        finally:
            self.waiting -= 1
        return True

    async def pace(self, x: Exchange, index: int, began: float) -> bool:
        """Waits until token ``index`` is due; ``False`` when the client has gone."""
        rate = number("TOKENS_PER_SECOND")
        while True:
            due = began + index / rate if rate else 0.0
            left = due - time.monotonic()
            await asyncio.sleep(min(0.05, max(0.0, left)))
            if x.gone:
                return False
            if left <= 0 and not self.engine_dead:
                break
            if self.engine_dead:
                await asyncio.sleep(0.01)
        self.generation_tokens += 1
        if (crash := number("CRASH_AFTER")) and self.generation_tokens >= crash and not self.engine_dead:
            self.crashing = asyncio.ensure_future(self.crash())
        return True


class Answer:
    """One answer, whole or as server-sent events."""

    def __init__(
        self,
        server: Server,
        x: Exchange,
        request: dict,
        chat: bool,
        prompt_tokens: int,
        tokens: list[tuple[str, str]],
        finish: str,
    ) -> None:
        self.server, self.x, self.request, self.chat = server, x, request, chat
        self.prompt_tokens, self.tokens, self.finish = prompt_tokens, tokens, finish
        kind = ("chat.completion.chunk" if request.get("stream") else "chat.completion") if chat else "text_completion"
        self.head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex[:16]}",
            "object": kind,
            "created": int(time.time()),
            "model": request.get("model") or server.args.names[0],
        }

    def usage(self, completion: int) -> dict[str, object]:
        reasoning = sum(field == "reasoning" for field, _ in self.tokens[:completion])
        total = self.prompt_tokens + completion
        details = {"completion_tokens_details": {"reasoning_tokens": reasoning}}
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": total,
            "completion_tokens": completion,
            **details,
        }

    def choice(self, field: str, text: str, finish: str | None) -> dict[str, object]:
        base = {"index": 0, "logprobs": None, "finish_reason": finish}
        return {**base, "delta": {field: text}} if self.chat else {**base, "text": text}

    async def stream(self) -> None:
        options = self.request.get("stream_options") or {}
        send, began = self.x.event, time.monotonic()
        self.x.start_stream()
        if self.chat:
            first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            send({**self.head, "choices": [first]})
        held: list[tuple[str, str]] = []
        for index, token in enumerate(self.tokens):
            if not await self.server.pace(self.x, index, began):
                raise ConnectionResetError
            held.append(token)
            last = index == len(self.tokens) - 1
            ready = index == 0 or len(held) >= self.server.args.stream_interval or last
            if not ready and self.tokens[index + 1][0] == token[0]:
                continue
            text = "".join(part for _, part in held)
            held.clear()
            event = {**self.head, "choices": [self.choice(token[0], text, self.finish if last else None)]}
            if options.get("continuous_usage_stats"):
                event["usage"] = self.usage(index + 1)
            send(event)
            await self.x.writer.drain()
        if options.get("include_usage"):
            send({**self.head, "choices": [], "usage": self.usage(len(self.tokens))})
        self.x.end_stream()

    async def whole(self) -> None:
        began = time.monotonic()
        for index in range(len(self.tokens)):
            if not await self.server.pace(self.x, index, began):
                raise ConnectionResetError
        texts = {k: "".join(t for f, t in self.tokens if f == k) or None for k in ("content", "reasoning")}
        choice: dict[str, object] = {"index": 0, "finish_reason": self.finish, "logprobs": None}
        choice |= {"message": {"role": "assistant", **texts}} if self.chat else {"text": texts["content"] or ""}
        self.x.answer(200, {**self.head, "choices": [choice], "usage": self.usage(len(self.tokens))})


class Exchange:
    """One request and the way to answer it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
    ) -> None:
        self.reader, self.writer = reader, writer
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self.status = 200

    @property
    def gone(self) -> bool:
        return self.reader.at_eof() or self.writer.is_closing()

    def answer(self, status: int, body: object, kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status = status
        head = f"HTTP/1.1 {status} X\r\nserver: uvicorn\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n"
        self.writer.write(head.encode() + data)

    def start_stream(self) -> None:
        self.writer.write(
            b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )

    def event(self, event: dict) -> None:
        self._chunk(b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n")

    def end_stream(self) -> None:
        self._chunk(b"data: [DONE]\n\n")
        self.writer.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def count_tokens(prompt: object) -> int:
    """A token is a word; each message costs four more, as a chat template would."""
    if isinstance(prompt, str):
        return len(prompt.split())
    if isinstance(prompt, list):
        return sum(4 + count_tokens(part.get("content", "")) if isinstance(part, dict) else 1 for part in prompt)
    return 0


def main() -> None:
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
