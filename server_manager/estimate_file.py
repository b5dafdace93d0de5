"""A JSON file in the state folder that only ever serves estimates.

Whatever is wrong with it (unreadable, of another version, a full disk) is logged, costs the estimate and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


def read_entries(path: Path, key: str, entry_of: Callable[[Any], T | None]) -> list[T]:
    """The entries under ``key``, without those of which ``entry_of`` makes nothing; empty where there is no such file.

    Blocking, some 20 ms for a large one.
    """
    try:
        return [
            entry
            for found in json.loads(path.read_text(encoding="utf-8"))[key]
            if (entry := entry_of(found)) is not None
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s cannot be read, so there are no estimates from it: %s", path, error)
        return []


def write_entries(path: Path, key: str, entries: Sequence[Any]) -> None:
    """Replaces the file as a whole, or not at all; for this user alone."""
    draft = path.with_name(f"{path.name}.{threading.get_ident()}.new")
    try:
        draft.write_text(json.dumps({"version": 1, key: entries}), encoding="utf-8")
        draft.chmod(0o600)
        draft.replace(path)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)
        with contextlib.suppress(OSError):
            draft.unlink()
