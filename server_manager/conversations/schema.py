"""The tables of ``conversations.db`` and how an older file becomes one of today.

A change of the tables is a new entry of ``MIGRATIONS``; those that stand here are never edited again, since files of
users have been through them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from server_manager.conversations.turn import INTERRUPTED
from server_manager.errors import StateDirError

# Texts stand last in their rows: whoever reads the small columns need not walk through them. A turn's parent is no
# foreign key: SQLite deletes no chain of more than 1,000 that hang on one another.
_VERSION_1 = (
    """CREATE TABLE conversation (
        id TEXT NOT NULL PRIMARY KEY,
        owner TEXT NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        leaf TEXT,
        model TEXT NOT NULL DEFAULT '',
        title TEXT NOT NULL DEFAULT '',
        system_prompt TEXT NOT NULL DEFAULT ''
    )""",
    "CREATE INDEX conversation_of_owner ON conversation (owner, updated)",
    """CREATE TABLE turn (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        conversation TEXT NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
        parent TEXT,
        depth INTEGER NOT NULL,
        unfinished INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL,
        model TEXT NOT NULL DEFAULT '',
        note TEXT NOT NULL DEFAULT '',
        images TEXT NOT NULL DEFAULT '[]',
        figures TEXT NOT NULL DEFAULT '{}',
        user TEXT NOT NULL,
        assistant TEXT NOT NULL DEFAULT '',
        reasoning TEXT NOT NULL DEFAULT ''
    )""",
    "CREATE INDEX turn_of_conversation ON turn (conversation, parent, seq)",
    "CREATE INDEX turn_unfinished ON turn (unfinished) WHERE unfinished",
    """CREATE TABLE image (
        conversation TEXT NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
        id TEXT NOT NULL,
        type TEXT NOT NULL,
        bytes BLOB NOT NULL,
        PRIMARY KEY (conversation, id)
    )""",
    """CREATE TABLE preset (
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (owner, name)
    )""",
)
MIGRATIONS: Sequence[Sequence[str]] = (_VERSION_1,)
"""The statements that lead from each version to the next; the first from an empty file."""


def version(connection: sqlite3.Connection, newest: int = len(MIGRATIONS)) -> int:
    """That of the tables; 0 where there are none. Raises ``StateDirError`` for those of a newer app."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > newest:
        raise StateDirError(
            "The conversations were written by a newer vLLM Deck and are left as they are.",
            "Update vLLM Deck, or choose another folder with --state-dir.",
        )
    return found


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Brings the tables to today's version, all or nothing. Raises as ``version``."""
    if version(connection, len(migrations)) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in migrations[version(connection, len(migrations)) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def close_unfinished(connection: sqlite3.Connection) -> None:
    """Notes at each turn that an app which is gone was in the middle of, that it is not whole."""
    connection.execute("UPDATE turn SET unfinished = 0, note = ? WHERE unfinished", (INTERRUPTED,))
