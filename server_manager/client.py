"""HTTP to one OpenAI-compatible server; the only module that knows aiohttp and openai.

The text of chats and what passes the gateway does not come this way: see ``upstream.py``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from server_manager.chat_refusals import rejection
from server_manager.errors import ChatError, ManagerClosed, RequestRejected, ServerUnreachable

_SHORT = aiohttp.ClientTimeout(total=5)


class _ModelCard(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    root: str | None = None


class _ModelList(msgspec.Struct):
    data: list[_ModelCard]


class _TokenCount(msgspec.Struct):
    count: int


class _Version(msgspec.Struct):
    version: str


_decode_models = msgspec.json.Decoder(_ModelList).decode


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An entry of ``/v1/models``."""

    id: str
    max_model_len: int | None
    """Context length in tokens; ``None`` where the server does not say."""
    root: str | None = None
    """What vLLM was told to serve: a hub id, or a path on its own machine."""


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
        self.api_key = api_key
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        """The server's own key. It goes to the server alone."""

    async def health(self) -> int | None:
        """The HTTP status of ``/health``; ``None`` where nothing answers, which is normal while vLLM loads."""
        try:
            async with self.session.http.get(f"{self.base_url}/health", timeout=_SHORT) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def refuses(self) -> bool:
        """Whether nobody listens there (any more): unlike silence, which may come of much work, that is certain."""
        try:
            async with self.session.http.get(f"{self.base_url}/health", timeout=_SHORT):
                return False
        except aiohttp.ClientConnectorError as error:
            return isinstance(error.os_error, ConnectionRefusedError)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def models(self) -> tuple[ServedModel, ...]:
        """What the server serves. Raises ``ServerUnreachable`` or ``RequestRejected``."""
        body = await self.ask("GET", "/v1/models")
        try:
            return tuple(ServedModel(card.id, card.max_model_len, card.root) for card in _decode_models(body).data)
        except msgspec.MsgspecError as error:
            raise RequestRejected(
                f"{self.base_url}/v1/models does not answer as an OpenAI-compatible server does.",
                "Check the URL.",
            ) from error

    async def vllm_version(self) -> str | None:
        """What ``/version`` says; ``None`` where the server is not vLLM, or does not answer."""
        try:
            return msgspec.json.decode(await self.ask("GET", "/version"), type=_Version).version
        except (ChatError, msgspec.MsgspecError):
            return None

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
                    raise rejection(response.status, body)
                return body
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.unreachable(error) from error

    async def stream_with_openai(self, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """The text of one answer by the official client, for what is not on the hot path. Raises ``ChatError``.

        ``body`` is that of ``/v1/chat/completions`` without the fields for streaming.
        """
        import openai  # noqa: PLC0415  # costs 40 MB and 0.5 s, which most runs of the app never need

        client = openai.AsyncOpenAI(base_url=f"{self.base_url}/v1", api_key=self.api_key or "none", max_retries=0)
        try:
            async with client:
                known = {name: body[name] for name in ("model", "messages")}
                others = {name: value for name, value in body.items() if name not in known}
                stream = await client.chat.completions.create(**known, extra_body=others, stream=True)
                async with stream:
                    async for chunk in stream:
                        if chunk.choices and (text := chunk.choices[0].delta.content):
                            yield text
        except openai.APIStatusError as error:
            raise rejection(error.status_code, error.response.content) from error
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
