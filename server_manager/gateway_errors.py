"""Errors of the gateway in the words of the interface that the client speaks: OpenAI's or Anthropic's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from server_manager.errors import ServerManagerError

Headers = Sequence[tuple[bytes, bytes]]


class Dialect(StrEnum):
    """How errors and signs of life look to a client."""

    OPENAI = "openai"
    RESPONSES = "responses"
    """OpenAI's newer interface, whose streams have named events."""
    ANTHROPIC = "anthropic"

    @classmethod
    def of(cls, path: str) -> Dialect:
        """By the path of a request."""
        if path == "/v1/messages" or path.startswith("/v1/messages/"):
            return cls.ANTHROPIC
        return cls.RESPONSES if path == "/v1/responses" else cls.OPENAI


class GatewayRefusal(ServerManagerError):
    """The gateway itself refuses a request, and says so with an HTTP status."""

    code = "gateway_refused"

    def __init__(
        self,
        status: int,
        message: str,
        next_step: str = "",
        *,
        kind: str = "server_error",
        reason: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """``kind`` and ``reason`` are OpenAI's ``type`` and ``code``; ``retry_after`` is in seconds."""
        super().__init__(message, next_step)
        self.status, self.kind, self.reason, self.param = status, kind, reason, param
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class _Told:
    """How one of our errors is told by HTTP."""

    status: int
    kind: str = "server_error"
    reason: str | None = None
    param: str | None = None
    retry_after: int | None = None
    may_retry: bool = True


_BY_CODE: Mapping[str, _Told] = {
    "unknown_model": _Told(404, "invalid_request_error", "model_not_found", "model"),
    "not_allowed": _Told(409, "invalid_request_error"),
    "invalid_model": _Told(503, may_retry=False),
    "closing": _Told(503, retry_after=10),
    "start_aborted": _Told(503, retry_after=10),
    # The official clients repeat a request after a 503 by themselves. Each repetition would be one more start that
    # fails the same way, so they are told not to.
    "start_failed": _Told(503, may_retry=False),
    "start_stalled": _Told(503, may_retry=False),
    "exited_during_start": _Told(503, may_retry=False),
    "launch_failed": _Told(503, may_retry=False),
    "state_dir": _Told(503, may_retry=False),
    "insufficient_memory": _Told(503, retry_after=30),
    "server_unreachable": _Told(502),
    "request_rejected": _Told(502),
}
_ANTHROPIC_KINDS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}


def _told(error: ServerManagerError) -> _Told:
    if isinstance(error, GatewayRefusal):
        return _Told(error.status, error.kind, error.reason, error.param, error.retry_after)
    return _BY_CODE.get(error.code, _Told(503))


def status_of(error: ServerManagerError) -> int:
    """Its HTTP status."""
    return _told(error).status


def error_document(error: ServerManagerError, dialect: Dialect) -> bytes:
    """The JSON body of an answer that is an error."""
    told = _told(error)
    if dialect is Dialect.ANTHROPIC:
        kind = _ANTHROPIC_KINDS.get(told.status, "api_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": str(error)}})
    reason = told.reason or (error.code if error.code != GatewayRefusal.code else None)
    return msgspec.json.encode(
        {"error": {"message": str(error), "type": told.kind, "param": told.param, "code": reason}}
    )


def error_headers(error: ServerManagerError) -> Headers:
    """Those of such an answer, the content type among them."""
    told = _told(error)
    headers = [(b"content-type", b"application/json")]
    if told.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if told.retry_after is not None:
        headers.append((b"retry-after", str(told.retry_after).encode()))
    if not told.may_retry:
        headers.append((b"x-should-retry", b"false"))
    return headers


def error_event(document: bytes, dialect: Dialect) -> bytes:
    """An error's JSON as an event of a stream that has begun; ``document`` may be one of vLLM's own."""
    line = b" ".join(document.split(b"\n"))
    match dialect:
        case Dialect.ANTHROPIC:
            return b"event: error\ndata: " + line + b"\n\n"
        case Dialect.RESPONSES:
            return b"event: error\ndata: " + _responses_error(line) + b"\n\n"
        case Dialect.OPENAI:
            return b"data: " + line + b"\n\n"


def end_of_stream(dialect: Dialect) -> bytes:
    """What follows the last event of a stream."""
    return b"data: [DONE]\n\n" if dialect is Dialect.OPENAI else b""


def sign_of_life(text: str, dialect: Dialect) -> bytes:
    """A comment, which every reader of server-sent events passes over; Anthropic's clients know ``ping`` too."""
    comment = b": " + " ".join(text.split()).encode()
    ping = b'\nevent: ping\ndata: {"type": "ping"}' if dialect is Dialect.ANTHROPIC else b""
    return comment + ping + b"\n\n"


def _responses_error(line: bytes) -> bytes:
    """With the fields where that interface has them, and with ``error``, by which the ``openai`` package knows it."""
    try:
        error = msgspec.json.decode(line)["error"]
        fields = {"code": error.get("code"), "message": error.get("message"), "param": error.get("param")}
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return line
    return msgspec.json.encode({"type": "error", "sequence_number": 0, **fields, "error": error})
