"""API keys of users, in a file beside that of the users: one ``ID NAME DATE HASH`` a line.

A key is 256 random bits, so a plain SHA-256 of it cannot be turned round, and is quick enough to look up for each
request. Only that is kept.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server_manager import SpecError
from webui.users import read_users

_PREFIX = "sk-deck-"
_ID_CHARS = 8


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key."""

    id: str
    """Its first characters after the prefix."""
    name: str
    """The user's."""
    made_on: str
    """As YYYY-MM-DD."""
    digest: str


class ApiKeys:
    """The keys of a file, read again when it changes: a key counts, or counts no more, without a restart."""

    def __init__(self, path: Path) -> None:
        """Raises ``SpecError`` where the file is there and cannot be read."""
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._owners: dict[str, str] = {}
        self._look()

    @classmethod
    def of(cls, users_file: Path) -> ApiKeys:
        """Those of the users of a file."""
        return cls(keys_path(users_file))

    def owner(self, key: str) -> str | None:
        """The user whose key it is."""
        if not key.startswith(_PREFIX):
            return None
        try:
            self._look()
        except SpecError:  # half written, or damaged: nobody gets in by it
            return None
        return self._owners.get(_digest(key))

    def _look(self) -> None:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            stamp = None
        if stamp != self._stamp:
            self._owners = {}
            self._owners = {key.digest: key.name for key in _read(self._path)} if stamp else {}
            self._stamp = stamp


def keys_path(users_file: Path) -> Path:
    """Where the keys of a file's users are."""
    return users_file.with_name(f"{users_file.name}.keys")


def add_key(users_file: Path, name: str) -> str:
    """Makes a key for a user and gives it; it can never be shown again. Raises ``SpecError``."""
    if name not in read_users(users_file):
        raise SpecError(f"{users_file} has no user {name!r}.", f"python app.py add-user {name} --auth {users_file}")
    key = _PREFIX + secrets.token_hex(32)
    identifier = key.removeprefix(_PREFIX)[:_ID_CHARS]
    line = f"{identifier} {name} {time.strftime('%Y-%m-%d')} {_digest(key)}\n"
    path = keys_path(users_file)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise _unwritable(path, error) from error
    return key


def list_keys(users_file: Path) -> Sequence[ApiKey]:
    """All of them, the oldest first. Raises ``SpecError``."""
    path = keys_path(users_file)
    return _read(path) if path.exists() else ()


def revoke_key(users_file: Path, identifier: str) -> ApiKey:
    """Forgets a key, given its id or the key itself. Raises ``SpecError`` where there is none such."""
    wanted = identifier.removeprefix(_PREFIX)[:_ID_CHARS]
    keys = list_keys(users_file)
    gone = [key for key in keys if key.id == wanted]
    path = keys_path(users_file)
    if len(wanted) < _ID_CHARS or not gone:
        raise SpecError(f"{path} has no key {wanted!r}.", f"See: python app.py list-keys --auth {users_file}")
    try:
        handle, draft = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
        with open(handle, "w", encoding="utf-8") as file:  # mode 0600, as mkstemp makes it
            file.writelines(f"{key.id} {key.name} {key.made_on} {key.digest}\n" for key in keys if key not in gone)
        os.replace(draft, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    return gone[0]


def _read(path: Path) -> Sequence[ApiKey]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(ApiKey(*line.split()) for line in lines if line.strip() and not line.startswith("#"))
    except (OSError, UnicodeDecodeError, TypeError) as error:
        raise SpecError(
            f"The file of API keys {path} cannot be read: {error}.", "Each line is “ID NAME DATE HASH”.", path=path
        ) from error


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _unwritable(path: Path, error: OSError) -> SpecError:
    return SpecError(f"The file of API keys {path} cannot be written: {error.strerror}.", path=path)
