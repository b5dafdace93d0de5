"""Files that came with a model: anybody may have made them, so they are read with a limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_text(path: Path, most_bytes: int) -> str:
    """A text of at most so many bytes. Raises ``OSError``; ``ValueError`` for a larger one, or where it is no UTF-8."""
    if path.stat().st_size > most_bytes:
        raise ValueError("the file is too large")
    return path.read_text(encoding="utf-8")


def read_object(path: Path, most_bytes: int) -> dict[str, Any]:
    """A JSON object. Raises as ``read_text``, ``ValueError`` for anything else, ``RecursionError`` for one too deep."""
    content = json.loads(read_text(path, most_bytes))
    if not isinstance(content, dict):
        raise ValueError("the file holds no JSON object")
    return content
