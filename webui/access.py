"""Who may do what: login, roles, and refusal of requests from other sites.

Without ``--auth`` the app listens on the loopback address only and everybody there is an operator. With it each
request needs a session cookie (set by the login form), an API key, or HTTP Basic, which is for scripts.

A page of another site can make a browser send requests here. Those that change something are recognised by
``Sec-Fetch-Site``, or by ``Origin`` where the browser does not send it (plain HTTP), and refused. So are requests for
a host name that is not ours (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server_manager import Dialect, GatewayRefusal, error_document, error_headers
from webui.api_keys import ApiKeys
from webui.gateway_app import is_gateway_path
from webui.users import Role, User, Users, hash_password, password_matches

COOKIE = "deck-session"
SESSION_SECONDS = 30 * 24 * 3600
LOCAL_USER = User("local", Role.OPERATOR)
_OPEN_PATHS = frozenset({"/healthz", "/login"})
_CHECKS_AT_ONCE = 2
"""Passwords that are checked at the same time: each check takes 16 MiB and 50 ms of a processor."""


class Access:
    """Tells who sends a request. Sessions are signed, not stored: they survive a restart of the app."""

    def __init__(
        self,
        users: Users | None,
        key: bytes,
        local_token: str,
        api_keys: ApiKeys | None = None,
    ) -> None:
        """``users`` is ``None`` without ``--auth``; ``local_token`` is that of the command line on this machine."""
        self._api_keys = api_keys
        self._file = users
        self._key = key
        self._local_token = local_token.encode()
        self._checked: dict[tuple[str, bytes], str] = {}
        """The hash that a password was found to fit, by name and password."""
        self._checks = asyncio.Semaphore(_CHECKS_AT_ONCE)
        # An unknown name costs the same time as a wrong password, so that names cannot be found by timing.
        self._nobody = hash_password("") if users is not None else ""

    @classmethod
    def open(cls, users_file: Path | None, key: bytes, local_token: str) -> Access:
        """With the users of a file and their API keys. Raises ``SpecError`` where a file cannot be read."""
        if users_file is None:
            return cls(None, key, local_token)
        return cls(Users(users_file), key, local_token, ApiKeys.of(users_file))

    @property
    def login_required(self) -> bool:
        return self._file is not None

    @property
    def _users(self) -> Mapping[str, tuple[Role, str]]:
        """As they are now; none without ``--auth``."""
        return self._file.now() if self._file is not None else {}

    async def user_of(self, headers: Headers) -> User | None:
        """The sender of a request, or ``None``."""
        if self._file is None:
            return LOCAL_USER
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(credentials.encode(), self._local_token):
            return LOCAL_USER
        if api_key := credentials.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", ""):
            return self._from_api_key(api_key)
        if scheme.lower() == "basic":
            try:
                name, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
            except ValueError:  # no base64, or no UTF-8 in it
                return None
            return await self.check_password(name, password)
        # Not http.cookies: one odd cookie of another app on this host would make it lose ours.
        return self._from_session(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""))

    def _from_api_key(self, api_key: str) -> User | None:
        name = self._api_keys.owner(api_key) if self._api_keys else None
        return self._user(name) if name is not None else None

    def _user(self, name: str) -> User | None:
        known = self._users.get(name)
        return User(name, known[0]) if known is not None else None

    async def check_password(self, name: str, password: str) -> User | None:
        """The user, if the password is right. Takes 50 ms in a thread the first time; then it is remembered."""
        _, hashed = self._users.get(name, (Role.USER, ""))
        seen = (name, hmac.digest(self._key, password.encode(), hashlib.sha256))
        if hashed and self._checked.get(seen) == hashed:
            return self._user(name)
        async with self._checks:
            right = await asyncio.to_thread(password_matches, password, hashed or self._nobody)
        if not (right and hashed):
            return None
        self._checked[seen] = hashed
        return self._user(name)

    def new_session(self, user: User) -> str:
        """A signed session: name, expiry as Unix time, signature."""
        body = f"{base64.urlsafe_b64encode(user.name.encode()).decode()}.{int(time.time()) + SESSION_SECONDS}"
        return f"{body}.{self._sign(body, user.name)}"

    def _from_session(self, session: str) -> User | None:
        body, _, signature = session.rpartition(".")
        encoded, _, expires = body.partition(".")
        try:
            name = base64.urlsafe_b64decode(encoded).decode()
            if int(expires) < time.time():
                return None
        except ValueError:  # not one of ours
            return None
        if not hmac.compare_digest(signature.encode(), self._sign(body, name).encode()):
            return None
        return self._user(name)

    def _sign(self, body: str, name: str) -> str:
        """With the hash of the password in it: a new password ends the sessions of the old one."""
        _, hashed = self._users.get(name, (Role.USER, ""))
        return hmac.new(self._key, f"{body} {hashed}".encode(), hashlib.sha256).hexdigest()


_POLICY = b"img-src 'self' data: blob:; media-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'self'"


class AccessMiddleware:
    """Lets through what may pass and puts the user into ``scope["state"]["user"]``. Adds no step to a stream."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        # The gateway has a policy of its own. Its answers come in thousands of chunks a second, and pass one step less.
        if not is_gateway_path(scope["path"]):
            send = _with_policy(send)
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            user = await self._access.user_of(headers)
            if user is None and scope["path"] not in _OPEN_PATHS:
                refusal = _login_wanted(scope, headers)
            scope.setdefault("state", {})["user"] = user
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if not self._access.login_required and not _is_this_machine(host):
            return _error(
                scope,
                403,
                "wrong_host",
                f"This app answers on this machine only, not as {host!r}.",
                "Open it as http://127.0.0.1 with its port, or start it with --auth FILE.",
            )
        if scope.get("method") in ("GET", "HEAD", "OPTIONS") or _from_this_page(headers, host):
            return None
        return _error(
            scope,
            403,
            "other_origin",
            "Requests that change something are taken from this page only.",
            "Behind a proxy, let it pass the Host header on.",
        )


def _from_this_page(headers: Headers, host: str) -> bool:
    """Whether our own page sends a request, or no page at all."""
    if site := headers.get("sec-fetch-site"):
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == host


def _is_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _with_policy(send: Send) -> Send:
    """Adds to each answer what a browser may do with it: ask no other host (a model's answer can hold the address of
    an image, and that address what was said before), and stand in no other site's frame."""

    async def send_with_policy(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"content-security-policy", _POLICY)]
        await send(message)

    return send_with_policy


def _error(scope: Scope, status: int, code: str, message: str, next_step: str = "") -> Response:
    if is_gateway_path(scope["path"]):  # to clients of OpenAI's and Anthropic's interfaces in their words
        kind = "authentication_error" if status == 401 else "permission_error"
        error = GatewayRefusal(
            status, message, next_step, kind=kind, reason="invalid_api_key" if status == 401 else code
        )
        answer = Response(error_document(error, Dialect.of(scope["path"])), status)
        answer.raw_headers += error_headers(error)
        return answer
    return JSONResponse({"error": {"code": code, "message": message, "next_step": next_step}}, status_code=status)


def _login_wanted(scope: Scope, headers: Headers) -> Response:
    if is_gateway_path(scope["path"]):
        given = "authorization" in headers or "x-api-key" in headers
        message = "The API key is not valid." if given else "An API key is needed."
        return _error(scope, 401, "login", message, "An operator makes one: python app.py add-key NAME --auth FILE")
    if scope.get("method") == "GET" and "text/html" in headers.get("accept", ""):
        return RedirectResponse("/login", status_code=303)
    response = _error(scope, 401, "login", "Log in first.")
    # A browser would open a window of its own for Basic, over the page that is about to show our form.
    browser = headers.get("user-agent", "").startswith("Mozilla/")
    response.headers["WWW-Authenticate"] = "Session" if browser else 'Basic realm="vLLM Deck"'
    return response
