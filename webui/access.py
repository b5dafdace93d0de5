"""Who may do what: login, roles, and refusal of requests from other sites.

Without ``--auth`` the app listens on the loopback address only and everybody there is an operator. With it each
request needs a session cookie (set by the login form) or HTTP Basic, which is for scripts.

A page of another site can make a browser send requests here. Those that change something are recognised by their
``Origin`` and refused, and so are requests for a host name that is not ours (DNS rebinding).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http.cookies import SimpleCookie
from importlib import resources
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server_manager import SpecError

COOKIE = "deck-session"
_SESSION_SECONDS = 30 * 24 * 3600
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
_OPEN_PATHS = frozenset({"/healthz", "/login"})
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}


class Role(StrEnum):
    """What somebody may do."""

    USER = "user"
    """Chat with servers that are up."""
    OPERATOR = "operator"
    """Everything."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who has logged in."""

    name: str
    role: Role

    @property
    def is_operator(self) -> bool:
        return self.role is Role.OPERATOR


LOCAL_USER = User("local", Role.OPERATOR)


def hash_password(password: str) -> str:
    """``scrypt:SALT:HASH`` in base64, with a new salt each time."""
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT)
    return f"scrypt:{base64.b64encode(salt).decode()}:{base64.b64encode(digest).decode()}"


def _matches(password: str, hashed: str) -> bool:
    try:
        _, salt, digest = hashed.split(":")
        expected = base64.b64decode(digest)
        found = hashlib.scrypt(password.encode(), salt=base64.b64decode(salt), **_SCRYPT)
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(found, expected)


def read_users(path: Path) -> dict[str, tuple[Role, str]]:
    """The users of an ``--auth`` file, one ``NAME ROLE HASH`` a line. Raises ``SpecError`` with file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"The file of users {path} cannot be read: {error}.",
            f"Make one with: python app.py add-user NAME --auth {path}",
            path=path,
        ) from error
    users = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, role, hashed = line.split()
            users[name] = (Role(role), hashed)
        except ValueError as error:
            raise SpecError(
                f"{path} line {number} is not “NAME ROLE HASH” with the role user or operator.",
                f"Make lines with: python app.py add-user NAME --auth {path}",
                path=path,
                line=number,
            ) from error
    if not users:
        raise SpecError(
            f"{path} names no users.", f"Add one with: python app.py add-user NAME --auth {path}", path=path
        )
    return users


class Access:
    """Tells who sends a request. Sessions are signed, not stored: they survive a restart of the app."""

    def __init__(self, users: Mapping[str, tuple[Role, str]] | None, key: bytes, local_token: str) -> None:
        """``users`` is ``None`` without ``--auth``; ``local_token`` is that of the command line on this machine."""
        self._users = users
        self._key = key
        self._local_token = local_token
        self._checked: dict[tuple[str, str], User] = {}

    @property
    def login_required(self) -> bool:
        return self._users is not None

    def user_of(self, headers: Headers) -> User | None:
        """The sender of a request, or ``None``."""
        if self._users is None:
            return LOCAL_USER
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(credentials, self._local_token):
            return LOCAL_USER
        if scheme.lower() == "basic":
            try:
                name, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None
            return self.check_password(name, password)
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        return self._from_session(cookie.value) if cookie else None

    def check_password(self, name: str, password: str) -> User | None:
        """The user, if the password is right. Takes 50 ms the first time, on purpose; then it is remembered."""
        role, hashed = (self._users or {}).get(name, (Role.USER, ""))
        seen = (name, hmac.new(self._key, password.encode(), hashlib.sha256).hexdigest())
        if seen in self._checked:
            return self._checked[seen]
        # An unknown name costs the same time as a wrong password, so that names cannot be found by timing.
        right = _matches(password, hashed or hash_password(secrets.token_hex()))
        if not (right and hashed):
            return None
        user = self._checked[seen] = User(name, role)
        return user

    def new_session(self, user: User) -> str:
        """A signed session: name, expiry as Unix time, signature."""
        body = f"{base64.urlsafe_b64encode(user.name.encode()).decode()}.{int(time.time()) + _SESSION_SECONDS}"
        return f"{body}.{self._sign(body)}"

    def _from_session(self, session: str) -> User | None:
        body, _, signature = session.rpartition(".")
        if not hmac.compare_digest(signature, self._sign(body)):
            return None
        encoded, _, expires = body.partition(".")
        name = base64.urlsafe_b64decode(encoded).decode()
        role = (self._users or {}).get(name)
        return User(name, role[0]) if role and int(expires) > time.time() else None

    def _sign(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()


class AccessMiddleware:
    """Lets through what may pass and puts the user into ``scope["state"]["user"]``. Adds no step to a stream."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is None:
            user = self._access.user_of(headers)
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
        if not self._access.login_required and _host_name(host) not in _LOOPBACK_NAMES:
            return _error(403, "wrong_host", f"This app answers on this machine only, not as {host!r}.")
        if scope.get("method", "GET") in ("GET", "HEAD", "OPTIONS"):
            return None
        origin = headers.get("origin")
        same = origin is None or urlsplit(origin).netloc == host
        if not same or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return _error(403, "other_origin", "Requests that change something are taken from this page only.")
        return None


def _host_name(host: str) -> str:
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message, "next_step": ""}}, status_code=status)


def _login_wanted(scope: Scope, headers: Headers) -> Response:
    if scope.get("method") == "GET" and "text/html" in headers.get("accept", ""):
        return RedirectResponse("/login", status_code=303)
    response = _error(401, "login", "Log in first.")
    response.headers["WWW-Authenticate"] = 'Basic realm="vLLM Deck"'
    return response


async def login_page(request: Request) -> Response:
    """GET: the form. POST: checks it and sets the session."""
    access: Access = request.app.state.context.access
    if not access.login_required:
        return RedirectResponse("/", status_code=303)
    template = resources.files("webui").joinpath("static/login.html").read_text(encoding="utf-8")
    if request.method == "GET":
        return HTMLResponse(template.replace("<!--message-->", ""))
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    user = access.check_password(form.get("name", [""])[0], form.get("password", [""])[0])
    if user is None:
        return HTMLResponse(template.replace("<!--message-->", "Name or password is wrong. 用户名或密码错误。"), 401)
    response = RedirectResponse("/", status_code=303)
    secure = request.url.scheme == "https"
    response.set_cookie(
        COOKIE, access.new_session(user), max_age=_SESSION_SECONDS, httponly=True, samesite="strict", secure=secure
    )
    return response


async def logout(request: Request) -> Response:
    """Forgets the session in this browser."""
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE)
    return response
