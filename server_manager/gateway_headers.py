"""Which headers the gateway passes on, and which are its own business."""

from __future__ import annotations

from server_manager.gateway_errors import Headers

# Of one connection and not of the message (RFC 9110, 7.6.1).
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Our own keys and session are not for servers, least of all for those of others. Origin: vLLM would allow every site to
# read its answers, and who may is decided here.
_NOT_FOR_SERVERS = _HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"authorization",
    b"x-api-key",
    b"cookie",
    b"origin",
}
# Date and server are written by our own HTTP server. An attached server must not set cookies for our address.
_NOT_FOR_CLIENTS = _HOP_BY_HOP | {b"date", b"server", b"set-cookie", b"content-security-policy"}
_OURS: Headers = (
    # What a server sends must not act as a page of ours, whoever opens it in a browser.
    (b"content-security-policy", b"default-src 'none'; sandbox"),
    (b"x-content-type-options", b"nosniff"),
)
STREAM_HEADERS: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    *_OURS,
)
"""Of an answer that we begin before the server does."""


def header(headers: Headers, name: bytes) -> str:
    """The value of one; empty where it is missing. ``name`` in lower case."""
    return next((value.decode("latin-1") for key, value in headers if key.lower() == name), "")


def request_headers(headers: Headers) -> Headers:
    """Those of a client that go on to the server."""
    named = _named_by_connection(headers)
    return [(name, value) for name, value in headers if name.lower() not in _NOT_FOR_SERVERS and name not in named]


def answer_headers(headers: Headers) -> Headers:
    """Those of a server that go on to the client, and ours."""
    named = _named_by_connection(headers)
    passed = [
        (name, value)
        for name, value in headers
        if (key := name.lower()) not in _NOT_FOR_CLIENTS and key not in named and not key.startswith(b"access-control-")
    ]
    return [*passed, *_OURS]


def is_readable_stream(headers: Headers) -> bool:
    """Whether an answer is server-sent events that are not compressed."""
    return header(headers, b"content-type").startswith("text/event-stream") and not header(headers, b"content-encoding")


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    named = header(headers, b"connection").encode("latin-1").lower()
    return frozenset(name.strip() for name in named.split(b","))
