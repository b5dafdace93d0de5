"""Load tests on disk: a folder for each, with ``run.json``, what vLLM wrote for each level, and the generator's logs.

All of it blocks: to be called in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from server_manager.errors import StateDirError, UnknownLoadTest
from server_manager.load_test.run import LoadRun
from server_manager.phrases import Phrase

log = logging.getLogger(__name__)

_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_DOCUMENT = "run.json"


def new_id() -> str:
    """An id that sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


class RunStore:
    """The folder of all load tests, for this user alone: answers of models stand in what vLLM wrote."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, run_id: str) -> Path:
        """Where a run's files are. Raises ``UnknownLoadTest`` for what is no id."""
        if not _ID.fullmatch(run_id):
            raise unknown(run_id)
        return self._folder / run_id

    def save(self, run: LoadRun) -> None:
        """Replaces ``run.json`` as a whole, or not at all. Raises ``StateDirError``."""
        folder = self.folder(run.id)
        draft = folder / f"{_DOCUMENT}.new"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.json.encode(run))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(folder / _DOCUMENT)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise StateDirError(
                f"The load test cannot be saved in {folder}: {error.strerror or error}.",
                "Free some space on that disk." if full else "Give this user the right to write there.",
                path=str(folder),
                errno=error.errno,
            ) from error

    def load(self, run_id: str) -> LoadRun:
        """Raises ``UnknownLoadTest``, also where the file cannot be read (which is logged)."""
        path = self.folder(run_id) / _DOCUMENT
        try:
            return decode(path.read_bytes())
        except FileNotFoundError:
            raise unknown(run_id) from None
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s cannot be read: %s", path, error)
            raise unknown(run_id) from error

    def load_all(self) -> list[LoadRun]:
        """Those that can be read, the oldest first."""
        try:
            ids = [entry.name for entry in self._folder.iterdir() if _ID.fullmatch(entry.name)]
        except OSError:  # none yet
            return []
        found = []
        for run_id in ids:
            with contextlib.suppress(UnknownLoadTest):
                found.append(self.load(run_id))
        return sorted(found, key=lambda run: run.created_at)

    def delete(self, run_id: str) -> None:
        """For good. Raises ``UnknownLoadTest``, or ``StateDirError`` where something of it stays."""
        folder = self.folder(run_id)
        if not folder.is_dir():
            raise unknown(run_id)
        try:
            # The document first: what is left of a folder without it is no run any more.
            (folder / _DOCUMENT).unlink(missing_ok=True)
            shutil.rmtree(folder)
        except OSError as error:
            raise StateDirError(
                f"{folder} cannot be removed: {error.strerror or error}.",
                "Remove it by hand.",
                path=str(folder),
                errno=error.errno,
            ) from error


def decode(data: bytes) -> LoadRun:
    """A run as ``save`` wrote it. Raises ``msgspec.MsgspecError``."""
    run = msgspec.json.decode(data, type=LoadRun)
    rows = tuple(
        replace(
            row,
            progress=_phrase(row.progress),
            diagnosis=row.diagnosis
            and replace(
                row.diagnosis,
                title_phrases=tuple(map(_phrase, row.diagnosis.title_phrases)),
                remedy_phrases=tuple(map(_phrase, row.diagnosis.remedy_phrases)),
            ),
        )
        for row in run.rows
    )
    return replace(run, rows=rows)


def unknown(run_id: str) -> UnknownLoadTest:
    return UnknownLoadTest("There is no such load test.", "Look at the list again.", id=run_id)


def _phrase(found: Any) -> Any:
    """A phrase whose facts are phrases and tuples again, where JSON has made objects and lists of them."""
    if isinstance(found, Phrase):
        return Phrase(found.code, {name: _phrase(fact) for name, fact in found.facts.items()})
    if isinstance(found, Mapping) and found.keys() == {"code", "facts"}:
        return Phrase(found["code"], {name: _phrase(fact) for name, fact in found["facts"].items()})
    return tuple(map(_phrase, found)) if isinstance(found, list) else found
