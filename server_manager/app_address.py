"""Where the app that is running can be found: its lock, its URL and the token of the command line.

All of it lies in the state folder, which only its owner may read.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import Any

from server_manager.errors import StateDirError


def prepare_state_dir(state_dir: Path) -> None:
    """Makes the folder, readable by its owner alone. Raises ``StateDirError``."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def write_address(state_dir: Path, url: str, token: str) -> None:
    """Lets the command line find the app. Raises ``StateDirError``."""
    path = state_dir / "app.json"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"url": url, "token": token, "pid": os.getpid()}, file)
    except OSError as error:
        raise _unusable(state_dir, error) from error


def read_address(state_dir: Path) -> dict[str, Any] | None:
    """``url``, ``token`` and ``pid`` of the app that uses this folder, or ``None`` where none is up."""
    try:
        found: dict[str, Any] = json.loads((state_dir / "app.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def remove_address(state_dir: Path) -> None:
    """At the app's end."""
    (state_dir / "app.json").unlink(missing_ok=True)


def session_key(state_dir: Path) -> bytes:
    """The key that signs logins; made once. Raises ``StateDirError``."""
    path = state_dir / "session-key"
    try:
        if path.exists():
            return path.read_bytes()
        key = secrets.token_bytes(32)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
    except OSError as error:
        raise _unusable(state_dir, error) from error
    return key


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
