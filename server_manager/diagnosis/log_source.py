"""The lines of a log file for a diagnosis: all of a short one, beginning and end of a long one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from server_manager.diagnosis.diagnose import diagnose
from server_manager.diagnosis.report import Diagnosis
from server_manager.run_file import open_run

_HEAD_BYTES = 1024 * 1024
"""A start's own log is a tenth of that."""
_TAIL_BYTES = 4 * 1024 * 1024
"""For an end after days of serving: some 40,000 lines."""
_COUNT_BYTES = 8 * 1024 * 1024


def diagnose_file(
    path: Path,
    *,
    returncode: int | None = None,
    served: bool | None = None,
    options: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    most_bytes: int = _HEAD_BYTES + _TAIL_BYTES,
    whole_run: bool = False,
) -> Diagnosis | None:
    """``diagnose`` for a file; its line numbers are those of the file. Raises ``OSError``.

    Of a file with more than ``most_bytes`` the first mebibyte and the end are read, which takes some 50 ms.
    ``whole_run``: the file is a log of ours, and the parts that rotation has made of it belong to it.
    """
    with open_run(path) if whole_run else path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(0)
        if size <= most_bytes:
            return diagnose(lines_of(log.read()), returncode=returncode, served=served, options=options, env=env)
        head = lines_of(log.read(_HEAD_BYTES))[:-1]  # the last one is cut
        skipped = _newlines(log, size - most_bytes)  # from the middle of a line to the middle of another
        tail = lines_of(log.read())[1:]
    found = diagnose([*head, *tail], returncode=returncode, served=served, options=options, env=env)
    if found is None or found.line is None or found.line <= len(head):
        return found
    return replace(found, line=found.line + skipped + 1)


def lines_of(data: bytes) -> list[str]:
    """Lines as an editor counts them."""
    return data.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")


def _newlines(log: BinaryIO, count: int) -> int:
    """How many there are in the next ``count`` bytes."""
    found = 0
    while count > 0 and (data := log.read(min(count, _COUNT_BYTES))):
        found += data.count(b"\n")
        count -= len(data)
    return found
