"""Where the app that is running can be found: its port, its lock, its URL and the token of the command line.

All of it lies in the state folder, which only its owner may read.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from server_manager.errors import SpecError, StateDirError

_KEY_BYTES = 32


def prepare_state_dir(state_dir: Path) -> None:
    """Makes the folder, readable by its owner alone. Raises ``StateDirError``.

    A folder that holds something else too (a home, ``/tmp``) keeps its mode; only what we make in it is private.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (state_dir / "lock").exists() or not any(state_dir.iterdir()):
            state_dir.chmod(0o700)
        for name in ("logs", "servers", "cache"):
            (state_dir / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unusable(state_dir, error) from error


def lock_state_dir(state_dir: Path) -> int:
    """Takes the folder for this app; the lock ends with the process. Raises ``StateDirError`` if another app has it.

    Returns the descriptor, which must stay open.
    """
    try:
        descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(state_dir, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        url = (read_address(state_dir) or {}).get("url")
        raise StateDirError(
            f"vLLM Deck is up already{f', at {url}' if url else ''}.",
            f"Open that page, or choose another --state-dir than {state_dir} (and another --port) for a second one.",
            path=state_dir,
            errno=error.errno,
        ) from error
    return descriptor


def listen(host: str, port: int) -> socket.socket:
    """The page's port. Connections wait until they are accepted. Raises ``SpecError`` where it is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol said: else asyncio's own loop would hold small frames back for 40 ms (TCP_NODELAY).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen()  # at once: until then another process may bind the same port
    except OSError as error:
        listener.close()
        raise SpecError(
            f"{host} port {port} cannot be used: {error.strerror}.", "Choose another with --port (make run PORT=…)."
        ) from error
    return listener


@contextmanager
def published(state_dir: Path, url: str, token: str) -> Iterator[None]:
    """Lets the command line find the app meanwhile. Raises ``StateDirError``."""
    content = {"url": url, "token": token, "pid": os.getpid(), "created": psutil.Process().create_time()}
    try:
        _write(state_dir / "app.json", json.dumps(content).encode())
    except OSError as error:
        raise _unusable(state_dir, error) from error
    try:
        yield
    finally:
        (state_dir / "app.json").unlink(missing_ok=True)


def read_address(state_dir: Path) -> dict[str, Any] | None:
    """``url``, ``token`` and ``pid`` of the app that uses this folder, or ``None`` where none is up.

    An app that was killed leaves its file behind; whoever has its port now must not be sent its token.
    """
    try:
        found: dict[str, Any] = json.loads((state_dir / "app.json").read_text(encoding="utf-8"))
        alive = abs(psutil.Process(found["pid"]).create_time() - found["created"]) < 1
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return found if alive else None


def session_key(state_dir: Path) -> bytes:
    """The key that signs logins; made once. Raises ``StateDirError``."""
    path = state_dir / "session-key"
    try:
        if path.exists() and len(key := path.read_bytes()) == _KEY_BYTES:  # a short one could be guessed
            return key
        key = secrets.token_bytes(_KEY_BYTES)
        _write(path, key)
    except OSError as error:
        raise _unusable(state_dir, error) from error
    return key


def _write(path: Path, content: bytes) -> None:
    """The whole content or nothing, for its owner alone."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _unusable(state_dir: Path, error: OSError) -> StateDirError:
    advice = {
        errno.ENOSPC: "Free some space there, or choose another folder with --state-dir.",
        errno.EACCES: "Make it yours, or choose another folder with --state-dir.",
        errno.EROFS: "Choose a folder that can be written with --state-dir.",
    }.get(error.errno or 0, "Choose another folder with --state-dir.")
    return StateDirError(
        f"The state folder {state_dir} cannot be used: {error.strerror or error}.",
        advice,
        path=state_dir,
        errno=error.errno,
    )
