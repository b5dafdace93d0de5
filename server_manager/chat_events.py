"""Reads the server-sent events of a streamed chat: the few fields that are used, and errors in mid-answer.

Some microseconds a chunk: every token of every chat passes here.
"""

from __future__ import annotations

import msgspec

from server_manager.chat_refusals import ErrorBody, refusal
from server_manager.errors import RequestRejected


class _TokenDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    completion_tokens_details: _TokenDetails | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: ErrorBody | str | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class ChatDelta(msgspec.Struct):
    """One piece of an answer."""

    content: str
    reasoning: str
    tokens: int | None
    """That it consists of; ``None`` where the server does not say."""


class ChatEvents:
    """One answer. ``split`` takes its bytes as they come, cut anywhere; what is known of all of it are the fields."""

    def __init__(self) -> None:
        self._rest = b""
        self.finished = False
        """Whether the last word has come: a server that is killed closes its connections like one that is done."""
        self.finish_reason: str | None = None
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.reasoning_tokens: int | None = None

    def split(self, data: bytes) -> list[bytes]:
        """The data of the events that ``data`` completes."""
        data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        events = data.split(b"\n\n")
        self._rest = events.pop()
        if (
            self._rest.endswith(b"[DONE]") and _data_of(self._rest) == b"[DONE]"
        ):  # some servers end the stream without the empty line
            self.finished = True
        return events

    def read(self, event: bytes) -> ChatDelta | None:
        """One event; ``None`` where it holds nothing of the answer (a comment, the role, the figures, the end).

        Raises ``ContextExceeded`` or ``RequestRejected`` where it is an error.
        """
        data = event[6:] if event.startswith(b"data: ") and b"\n" not in event else _data_of(event)
        if not data:
            return None
        if data == b"[DONE]":
            self.finished = True
            return None
        try:
            chunk = _decode(data)
        except msgspec.MsgspecError as error:
            raise RequestRejected(f"The server sent something that is no chat chunk: {data[:200]!r}") from error
        if chunk.error is not None:
            # The answer has begun with status 200 then; the error's own code tells more.
            code = chunk.error.code if isinstance(chunk.error, ErrorBody) else None
            raise refusal(code if isinstance(code, int) else 500, chunk.error, "The answer broke off")
        if chunk.usage is not None:
            self._count(chunk.usage)
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason
        delta = choice.delta
        content, reasoning = delta.content or "", delta.reasoning or delta.reasoning_content or ""
        if not content and not reasoning and not choice.token_ids:
            return None  # the first chunk only names the role
        return ChatDelta(content, reasoning, None if choice.token_ids is None else len(choice.token_ids))

    def _count(self, usage: _Usage) -> None:
        self.prompt_tokens = usage.prompt_tokens
        self.completion_tokens = usage.completion_tokens
        details = usage.completion_tokens_details
        self.reasoning_tokens = details.reasoning_tokens if details else None


def _data_of(event: bytes) -> bytes:
    """The data of an event of any form; comments (": keep-alive") have none."""
    return b"\n".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
