"""HTTP to one OpenAI-compatible server; the only module that knows aiohttp and openai.

Chat text takes the short way: aiohttp reads vLLM's server-sent events, msgspec decodes them into the few fields that
are used. That costs about 13 microseconds a chunk, the ``openai`` package's typed stream ten times that; ``openai``
serves what is not on that path.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from server_manager.errors import ContextExceeded, ManagerClosed, RequestRejected, ServerUnreachable

_SHORT = aiohttp.ClientTimeout(total=5)
# No total limit: an answer may take as long as it takes. The first request with a new option can compile for 12 s and
# a long queue lasts longer, so a read may be silent for a good while too.
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=600)


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _ErrorBody(msgspec.Struct):
    message: str = ""
    type: str | None = None
    code: int | str | None = None
    param: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _ErrorBody | str | None = None


class _ModelCard(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _ModelList(msgspec.Struct):
    data: list[_ModelCard]


class _TokenCount(msgspec.Struct):
    count: int


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_models = msgspec.json.Decoder(_ModelList).decode


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """One piece of an answer. The last one carries ``finish_reason``; the one after it the token counts."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An entry of ``/v1/models``."""

    id: str
    max_model_len: int | None
    """Context length in tokens; ``None`` where the server does not say."""


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """What ``/metrics`` of vLLM says of the moment. Names are vLLM's."""

    num_requests_running: int | None
    num_requests_waiting: int | None
    kv_cache_usage_perc: float | None
    """0 to 1."""
    generation_tokens_total: float | None
    """Tokens made since the server started; its growth per second is the throughput."""


class ClientSession:
    """The connections that all clients share. To be entered on the event loop before the first request."""

    def __init__(self) -> None:
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ClientSession:
        # No limit on connections: each open chat holds one. Idle ones go before vLLM closes them (after 5 s): a request
        # that meets such an end on its way would be lost.
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._http is not None:
            await self._http.close()

    @property
    def http(self) -> aiohttp.ClientSession:
        """Raises ``ManagerClosed`` before it is entered and after it is left."""
        if self._http is None or self._http.closed:
            raise ManagerClosed("vLLM Deck is shutting down.", "Start it again to go on.")
        return self._http


class ServerClient:
    """Talks to one server. Cheap to make; the connections belong to the session, which all clients share."""

    def __init__(self, session: ClientSession, base_url: str, api_key: str | None = None) -> None:
        self.session = session
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        """The server's own key. It goes to the server alone."""

    async def health(self) -> int | None:
        """The HTTP status of ``/health``; ``None`` where nothing answers, which is normal while vLLM loads."""
        try:
            async with self.session.http.get(f"{self.base_url}/health", timeout=_SHORT) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def models(self) -> tuple[ServedModel, ...]:
        """What the server serves. Raises ``ServerUnreachable`` or ``RequestRejected``."""
        body = await self.ask("GET", "/v1/models")
        try:
            return tuple(ServedModel(card.id, card.max_model_len) for card in _decode_models(body).data)
        except msgspec.MsgspecError as error:
            raise RequestRejected(
                f"{self.base_url}/v1/models does not answer as an OpenAI-compatible server does.",
                "Check the URL.",
            ) from error

    async def metrics(self) -> ServerMetrics | None:
        """vLLM's figures of the moment, or ``None`` where the server has none (not vLLM, not ready)."""
        try:
            async with self.session.http.get(f"{self.base_url}/metrics", timeout=_SHORT) as response:
                if response.status != 200:
                    return None
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return _parse_metrics(text)

    async def count_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        """Tokens of the conversation with the model's chat template; ``None`` where the server cannot tell.

        By vLLM's ``/tokenize``, which other servers do not have.
        """
        body = msgspec.json.encode({"messages": messages})
        headers = {**self.headers, "Content-Type": "application/json"}
        try:
            async with self.session.http.post(
                f"{self.base_url}/tokenize", data=body, headers=headers, timeout=_SHORT
            ) as response:
                return msgspec.json.decode(await response.read(), type=_TokenCount).count
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError):
            return None

    async def ask(
        self, method: str, path: str, content: Mapping[str, object] | None = None, *, seconds: float = 5.0
    ) -> bytes:
        """The body of an answer with status 200; ``content`` is sent as JSON.

        Raises ``RequestRejected``, or ``ServerUnreachable`` where none comes within so many seconds.
        """
        data = None if content is None else msgspec.json.encode(content)
        headers = self.headers if data is None else {**self.headers, "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self.session.http.request(
                method, f"{self.base_url}{path}", headers=headers, data=data, timeout=timeout
            ) as response:
                body = await response.read()
                if response.status != 200:
                    raise _rejection(response.status, body)
                return body
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.unreachable(error) from error

    async def stream_chat(self, body: Mapping[str, Any]) -> AsyncGenerator[ChatDelta, None]:
        """Streams one answer. Closing the generator closes the connection, which aborts the request in vLLM.

        ``body`` is that of ``/v1/chat/completions`` without the streaming fields. Raises ``ContextExceeded``,
        ``RequestRejected`` or ``ServerUnreachable`` (also in mid-answer, when the server goes away).
        """
        request = {**body, "stream": True, "stream_options": {"include_usage": True}}
        headers = {**self.headers, "Content-Type": "application/json"}
        finished = False
        try:
            async with self.session.http.post(
                f"{self.base_url}/v1/chat/completions",
                data=msgspec.json.encode(request),
                headers=headers,
                timeout=_STREAM,
            ) as response:
                if response.status != 200:
                    raise _rejection(response.status, await response.read())
                async with aclosing(_events(response.content)) as events:
                    async for data in events:
                        if data == b"[DONE]":
                            finished = True
                            break
                        yield _delta(data)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.unreachable(error) from error
        if not finished:
            # An API server that is killed closes the socket like one that is done; only [DONE] tells them apart.
            raise ServerUnreachable("The answer broke off: the server closed the connection.", base_url=self.base_url)

    async def stream_with_openai(
        self, model: str, messages: Sequence[Mapping[str, str]], fields: Mapping[str, float | int]
    ) -> AsyncGenerator[str, None]:
        """The text of one answer by the official client, for what is not on the hot path. Raises ``ChatError``."""
        import openai  # noqa: PLC0415  # costs 40 MB and 0.5 s, which most runs of the app never need

        client = openai.AsyncOpenAI(base_url=f"{self.base_url}/v1", api_key=self._api_key or "none", max_retries=0)
        try:
            async with client:
                request: dict[str, Any] = {"model": model, "messages": messages, "extra_body": dict(fields)}
                stream = await client.chat.completions.create(**request, stream=True)
                async with stream:
                    async for chunk in stream:
                        if chunk.choices and (text := chunk.choices[0].delta.content):
                            yield text
        except openai.APIStatusError as error:
            raise _rejection(error.status_code, error.response.content) from error
        except openai.APIConnectionError as error:
            raise self.unreachable(error) from error
        except openai.APIError as error:  # an error in mid-answer
            raise RequestRejected(f"The answer broke off: {error.message}", type=error.type) from error
        except Exception as error:
            # A connection that breaks in mid-answer raises what the HTTP package below openai has for it, which is
            # another package in different versions of openai.
            raise self.unreachable(error) from error

    def unreachable(self, error: BaseException) -> ServerUnreachable:
        """A failed connection as our own error."""
        reason = str(error) or type(error).__name__
        return ServerUnreachable(f"The server at {self.base_url} does not answer ({reason}).", base_url=self.base_url)


async def _events(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """The data of each server-sent event. One network read may hold many events, or part of one."""
    rest = b""
    async for block in content.iter_any():
        *events, rest = (rest + block).replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            if data := _data_of(event):
                yield data
    if _data_of(rest) == b"[DONE]":  # some servers end the stream without the empty line
        yield b"[DONE]"


def _data_of(event: bytes) -> bytes:
    """The data of an event; comments (": keep-alive") have none."""
    return b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))


def _delta(data: bytes) -> ChatDelta:
    try:
        chunk = _decode_chunk(data)
    except msgspec.MsgspecError as error:
        raise RequestRejected(f"The server sent something that is no chat chunk: {data[:200]!r}") from error
    if chunk.error is not None:
        # vLLM's answer has begun with status 200 then; the error's own code tells more.
        code = chunk.error.code if isinstance(chunk.error, _ErrorBody) else None
        raise _from_error(code if isinstance(code, int) else 500, chunk.error, "The answer broke off")
    choice = chunk.choices[0] if chunk.choices else None
    delta = choice.delta if choice else _Delta()
    return ChatDelta(
        content=delta.content or "",
        reasoning=delta.reasoning or delta.reasoning_content or "",
        finish_reason=choice.finish_reason if choice else None,
        prompt_tokens=chunk.usage.prompt_tokens if chunk.usage else None,
        completion_tokens=chunk.usage.completion_tokens if chunk.usage else None,
    )


def _rejection(status: int, body: bytes) -> RequestRejected | ContextExceeded:
    try:
        error = msgspec.json.decode(body, type=_Chunk).error
    except msgspec.MsgspecError:
        error = None
    return _from_error(status, error or body.decode("utf-8", "replace")[:500] or f"HTTP status {status}")


def _from_error(
    status: int, error: _ErrorBody | str, what: str = "The server refused the request"
) -> RequestRejected | ContextExceeded:
    """Our error for an error body of vLLM (``{"error": {"message", "type", "param", "code"}}``)."""
    body = error if isinstance(error, _ErrorBody) else _ErrorBody(message=error)
    if body.param == "input_tokens" or "maximum context length" in body.message:
        words = (word.strip("().:;") for word in body.message.replace(",", "").split())
        numbers = [int(word) for word in words if word.isdecimal()]
        return ContextExceeded(
            "This conversation is longer than the model's context.",
            "Clear it, shorten the message, or start the model with a larger --max-model-len.",
            max_model_len=numbers[0] if numbers else None,
            prompt_tokens=numbers[1] if len(numbers) > 1 else None,
        )
    next_step = {
        401: "The API key is missing or wrong.",
        404: "The server serves another model; see its served-model-name.",
        503: "Its queue is full or its engine has died; see the server's log.",
    }.get(status, "")
    return RequestRejected(f"{what}: {body.message}", next_step, status=status, type=body.type)


def _parse_metrics(text: str) -> ServerMetrics:
    """Sums each figure over vLLM's labels (one per data-parallel rank); the cache's use is their largest."""

    def values(name: str) -> Sequence[float]:
        found = []
        for line in text.splitlines():
            if line.startswith((f"{name}{{", f"{name} ")):
                try:
                    found.append(float(line.rsplit(" ", 1)[1]))
                except ValueError:
                    continue
        return found

    running, waiting = values("vllm:num_requests_running"), values("vllm:num_requests_waiting")
    usage, tokens = values("vllm:kv_cache_usage_perc"), values("vllm:generation_tokens_total")
    return ServerMetrics(
        num_requests_running=int(sum(running)) if running else None,
        num_requests_waiting=int(sum(waiting)) if waiting else None,
        kv_cache_usage_perc=max(usage) if usage else None,
        generation_tokens_total=sum(tokens) if tokens else None,
    )
