"""The header of an answer that a browser is to save as a file."""

from __future__ import annotations

from urllib.parse import quote


def attachment(name: str, fallback: str, *, edges: str = " .") -> dict[str, str]:
    """With the file's name in any language and, for clients that know ASCII only, what is left of it (RFC 6266).

    ``edges`` are taken off both ends of what is left; where that is nothing but the ending, it is called ``fallback``.
    """
    stem, _, ending = name.rpartition(".")
    plain = stem.encode("ascii", "ignore").decode().replace("'", "").strip(edges) or fallback
    return {"Content-Disposition": f"attachment; filename=\"{plain}.{ending}\"; filename*=UTF-8''{quote(name)}"}
