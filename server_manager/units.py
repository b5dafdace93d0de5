"""Sizes in words."""

from __future__ import annotations


def gib(count: int | None, digits: int = 2) -> str:
    """Bytes as "14.21 GiB"; "?" where they are not known."""
    return "?" if count is None else f"{count / 2**30:.{digits}f} GiB"
