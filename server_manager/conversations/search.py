"""The list of somebody's conversations, and the search in it.

Texts are searched as they are, by SQLite's LIKE: it finds parts of words, and Chinese, which has no spaces to index by.
An index would also hold deleted text for a while. A gigabyte takes one to two seconds, beside everything else.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

QUERY_CHARS = 200
_WORDS = 10
_LIST = """SELECT conversation.id, title, conversation.updated, coalesce(leaf.depth + 1, 0), conversation.model
FROM conversation LEFT JOIN turn AS leaf ON leaf.id = conversation.leaf"""


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the list."""

    id: str
    title: str
    updated: float
    """Unix time in seconds."""
    turns: int
    """Of what is shown."""
    model: str
    """The one asked last."""


def find(
    connection: sqlite3.Connection, owner: str, query: str, limit: int, *, only: str | None = None
) -> list[Listed]:
    """The newest first; those of which the title or the texts hold each word of the query."""
    conditions, values = ["conversation.owner = ?"], [owner]
    if only is not None:
        conditions.append("conversation.id = ?")
        values.append(only)
    for word in query[:QUERY_CHARS].split()[:_WORDS]:
        patterns = _patterns(word)
        like = " OR ".join(f"{{0}} LIKE ?{len(values) + i + 1} ESCAPE '\\'" for i in range(len(patterns)))
        conditions.append(
            f"({like.format('title')} OR EXISTS (SELECT 1 FROM turn WHERE turn.conversation = conversation.id"
            f" AND ({like.format('turn.user')} OR {like.format('turn.assistant')})))"
        )
        values.extend(patterns)
    where = " AND ".join(conditions)
    rows = connection.execute(f"{_LIST} WHERE {where} ORDER BY conversation.updated DESC LIMIT {int(limit)}", values)
    return [Listed(*row) for row in rows]


def _patterns(word: str) -> list[str]:
    """LIKE knows upper and lower case of ASCII only; the usual forms of other letters stand beside the word."""
    forms = {word} if word.isascii() else {word, word.lower(), word.upper(), word.capitalize()}
    escaped = (form.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for form in sorted(forms))
    return [f"%{form}%" for form in escaped]
