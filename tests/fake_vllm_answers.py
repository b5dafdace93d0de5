"""The HTTP half of ``fake_vllm.py``: requests, answers and server-sent events in the shape of vLLM 0.32."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

VERSION = "0.32.0"


def setting(name: str, default: str = "") -> str:
    return os.environ.get(f"FAKE_VLLM_{name}", default)


def number(name: str, default: float = 0) -> float:
    return float(setting(name) or default)


def unique() -> str:
    """32 hexadecimal digits. Importing ``uuid`` would take a twentieth of a start."""
    return os.urandom(16).hex()


class Rejected(Exception):
    """An answer of vLLM's that is an error."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


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
        query: str = "",
    ) -> None:
        self.reader, self.writer, self.query = reader, writer, query
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
        self.chunk(b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n")

    def end_stream(self) -> None:
        self.chunk(b"data: [DONE]\n\n")
        self.writer.write(b"0\r\n\r\n")

    def chunk(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))


class Engine:
    """The model's side of the server: counts, sleep, and the making of answers."""

    def __init__(self, args: Any, sleep: Any) -> None:
        self.args = args
        self.max_model_len: int = args.max_model_len
        self.sleep = sleep
        self.engine_dead = False
        self.running = 0
        self.waiting = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0

    @property
    def asleep(self) -> bool:
        return self.sleep.level > 0 or self.sleep.is_moving

    async def crash(self) -> None:
        raise NotImplementedError

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
        states = {"awake": 0, "weights_offloaded": 1, "discard_all": 2}
        lines = [
            f'vllm:engine_sleep_state{{{label},sleep_state="{state}"}} {float(self.sleep.level == level)}'
            for state, level in states.items()
        ]
        kinds = {
            "num_requests_running": ("gauge", self.running - self.waiting),
            "num_requests_waiting": ("gauge", self.waiting),
            "kv_cache_usage_perc": ("gauge", min(1.0, self.running / 100)),
            "prompt_tokens_total": ("counter", self.prompt_tokens),
            "generation_tokens_total": ("counter", self.generation_tokens),
        }
        for name, (kind, value) in kinds.items():
            lines += [f"# HELP vllm:{name} {name}.", f"# TYPE vllm:{name} {kind}"]
            lines.append(f"vllm:{name}{{{label}}} {float(value)}")
        return "\n".join(lines) + "\n"

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
        if setting("PARROT"):
            said = request["messages"][-1]["content"] if "messages" in request else str(request["prompt"])
            if isinstance(said, list):  # with images
                said = "".join(part.get("text", "") for part in said)
            tokens = [("content", said[i : i + 8]) for i in range(0, len(said), 8)]
        thinks = (request.get("chat_template_kwargs") or {}).get("enable_thinking", True)
        if self.args.reasoning_parser and thinks:
            thoughts = [f"thought{i} " for i in range(int(number("REASONING_TOKENS")))]
            if setting("PARROT"):
                thoughts = [text for _, text in tokens] if thoughts else []
            tokens[:0] = [("reasoning", text) for text in thoughts]
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
                if not chat and (kept := recorded(request)):
                    x.answer(kept["status"], kept["body"])
                    return
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
        server: Engine,
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
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{unique()[:16]}",
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
            prompt = {"prompt_token_ids": list(range(self.prompt_tokens))} if "return_token_ids" in self.request else {}
            send({**self.head, "choices": [first], **prompt})
        held: list[tuple[str, str]] = []
        for index, token in enumerate(self.tokens):
            if not await self.server.pace(self.x, index, began):
                raise ConnectionResetError
            held.append(token)
            last = index == len(self.tokens) - 1
            interval = max(self.server.args.stream_interval, self.request.get("stream_interval") or 1)
            ready = index == 0 or len(held) >= interval or last
            if not ready and self.tokens[index + 1][0] == token[0]:
                continue
            text = "".join(part for _, part in held)
            choice = self.choice(token[0], text, self.finish if last else None)
            if self.request.get("return_token_ids"):
                choice["token_ids"] = list(range(len(held)))
            held.clear()
            event = {**self.head, "choices": [choice]}
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
        if self.request.get("logprobs") and not self.chat:
            likely = self.server.sleep.likely_tokens()
            choice["text"] = max(likely, key=lambda token: likely[token])
            choice["logprobs"] = {"top_logprobs": [likely], "tokens": [choice["text"]]}
        self.x.answer(200, {**self.head, "choices": [choice], "usage": self.usage(len(self.tokens))})


def recorded(request: dict) -> dict[str, Any] | None:
    """What a real vLLM answered to the same request, of the file RECORDED: its prompt, and what of logprobs it asks."""
    if not (path := setting("RECORDED")):
        return None
    with open(path, encoding="utf-8") as file:
        exchanges: list[dict[str, Any]] = json.load(file)

    def asked(of: dict) -> tuple[object, ...]:
        return tuple(of.get(key) for key in ("prompt", "logprobs", "prompt_logprobs"))

    return next((found for found in exchanges if asked(found) == asked(request)), None)


def count_tokens(prompt: object) -> int:
    """A token is a word; each message costs four more, as a chat template would."""
    if isinstance(prompt, str):
        return len(prompt.split())
    if isinstance(prompt, list):
        return sum(4 + count_tokens(part.get("content", "")) if isinstance(part, dict) else 1 for part in prompt)
    return 0
