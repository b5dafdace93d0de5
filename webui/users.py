"""The file of users of ``--auth``: one ``NAME ROLE HASH`` a line."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from server_manager import SpecError

log = logging.getLogger(__name__)

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


def hash_password(password: str) -> str:
    """``scrypt:SALT:HASH`` in base64, with a new salt each time."""
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT)
    return f"scrypt:{base64.b64encode(salt).decode()}:{base64.b64encode(digest).decode()}"


def password_matches(password: str, hashed: str) -> bool:
    """Whether ``hashed`` was made of ``password``. Takes some 50 ms, on purpose."""
    salt, digest = _split_hash(hashed)
    return hmac.compare_digest(hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT), digest)


def read_users(path: Path) -> dict[str, tuple[Role, str]]:
    """Role and hash by name. Raises ``SpecError`` with file and line."""
    advice = f"Make lines with: python app.py add-user NAME --auth {path}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SpecError(f"The file of users {path} cannot be read: {reason}.", advice, path=path) from error
    users = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, role, hashed = line.split()
            _split_hash(hashed)
            users[name] = (Role(role), hashed)
        except ValueError as error:
            raise SpecError(
                f"{path} line {number} is not “NAME ROLE HASH” with the role user or operator.",
                advice,
                path=path,
                line=number,
            ) from error
    if not users:
        raise SpecError(f"{path} names no users.", advice, path=path)
    return users


class Users:
    """The users of a file, read again when it changes: a role counts, or a user counts no more, without a restart.

    Where it has become unreadable those of before stay, and the app's log says why: a slip in an editor must not throw
    everybody out.
    """

    def __init__(self, path: Path) -> None:
        """Raises ``SpecError`` where the file cannot be read."""
        self._path = path
        self._stamp = self._stamp_now()
        self._users = read_users(path)

    def now(self) -> Mapping[str, tuple[Role, str]]:
        """Role and hash by name. Looks at the file's time: some microseconds."""
        if (stamp := self._stamp_now()) != self._stamp:
            self._stamp = stamp
            try:
                self._users = read_users(self._path)
            except SpecError as error:
                log.error("%s The users of before stay.", error)
        return self._users

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def add_user(path: Path, name: str, role: str, password: str) -> None:
    """Adds a line; of two lines with one name the later counts. Raises ``SpecError``."""
    if not name or name.startswith("#") or ":" in name or any(not char.isprintable() or char == " " for char in name):
        raise SpecError(f"{name!r} cannot be a user's name.", "Use a name without spaces, colons and # in front.")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+b") as file:
            before = file.read()
            gap = "" if not before or before.endswith(b"\n") else "\n"
            file.write(f"{gap}{name} {Role(role)} {hash_password(password)}\n".encode())
    except OSError as error:
        raise SpecError(f"The file of users {path} cannot be written: {error.strerror}.", path=path) from error


def _split_hash(hashed: str) -> tuple[bytes, bytes]:
    """Salt and digest. Raises ``ValueError``."""
    kind, salt, digest = hashed.split(":")
    if kind != "scrypt":
        raise ValueError(kind)
    try:
        return base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)
    except binascii.Error as error:
        raise ValueError(hashed) from error
