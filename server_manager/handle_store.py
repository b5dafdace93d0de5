"""Keeps on disk what another app needs to find the servers of this one again."""

from __future__ import annotations

import errno
import json
import logging
import os
from dataclasses import asdict, fields
from pathlib import Path
from urllib.parse import quote

from server_manager.errors import StateDirError
from server_manager.launchers.base import HandleRecord

logger = logging.getLogger(__name__)


class HandleStore:
    """One JSON file per server, readable by this user alone: it holds the server's API key."""

    def __init__(self, records_dir: Path) -> None:
        self._dir = records_dir

    def save(self, record: HandleRecord) -> None:
        """Writes the record; a crash at any moment leaves the old one or the new one. Raises ``StateDirError``."""
        path = self._path(record.name)
        new = path.with_suffix(".new")
        try:
            self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                json.dump(asdict(record), file, ensure_ascii=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise self._error("written", path, error) from error

    def amend(self, record: HandleRecord) -> None:
        """Writes it again with more in it, unless it is no longer the record of that server; does so as it can."""
        try:
            if _parse(self._path(record.name).read_text(encoding="utf-8")).marker == record.marker:
                self.save(record)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, StateDirError) as error:
            logger.warning("The record of %s keeps what it has: %s", record.name, error)

    def load_all(self) -> tuple[HandleRecord, ...]:
        """All records that can be read, by name; a broken one is logged and left where it is."""
        records = []
        for path in sorted(self._dir.glob("*.json")):
            try:
                records.append(_parse(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError, KeyError) as error:
                logger.warning(
                    "The record %s cannot be read and is ignored: %s. Delete it if it is broken.", path, error
                )
        return tuple(sorted(records, key=lambda record: record.name))

    def remove(self, name: str) -> None:
        """Forgets the server; nothing happens where there is no record. Raises ``StateDirError``."""
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._error("removed", path, error) from error

    def _path(self, name: str) -> Path:
        # Percent signs for all that is not plain, so that a name can neither leave the folder nor hide another.
        return self._dir / f"{quote(name, safe='').replace('.', '%2E')}.json"

    @staticmethod
    def _error(verb: str, path: Path, error: OSError) -> StateDirError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        step = "Free some space on that disk" if full else "Give this user the right to write there"
        return StateDirError(
            f"The record {path} cannot be {verb}: {error.strerror or error}.",
            f"{step}, or choose another folder with --state-dir.",
            path=str(path),
            errno=error.errno,
        )


def _parse(text: str) -> HandleRecord:
    """Raises ``ValueError`` or ``TypeError`` for anything but a whole record; keys of a newer version are ignored."""
    data = json.loads(text)
    if not isinstance(data, dict):
        raise TypeError("not a JSON object")
    known = {field.name: data[field.name] for field in fields(HandleRecord) if field.name in data}
    known |= {"argv": tuple(known["argv"]), "env": dict(known["env"])}
    known |= {"likely_tokens": tuple(known.get("likely_tokens", ())), "will_hold": dict(known.get("will_hold", {}))}
    record = HandleRecord(**known)
    if not isinstance(record.pid, int) or not isinstance(record.start_ticks, int) or record.pid <= 1:
        raise ValueError("pid and start_ticks must be whole numbers")
    return record
