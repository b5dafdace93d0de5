"""System prompts that somebody has put by under a name."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass

from server_manager.conversations.shelf import Shelf
from server_manager.errors import NotAllowed, NotKept

MOST_PRESETS = 500
"""Of one user: they are listed as a whole."""
NAME_CHARS = 100


@dataclass(frozen=True, slots=True)
class Preset:
    """A system prompt by its name."""

    name: str
    text: str


class Presets:
    """Those of all users; each sees their own. Every method raises ``StateDirError`` where the file cannot be used."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def listed(self, owner: str) -> list[Preset]:
        """By name."""

        def find(connection: sqlite3.Connection) -> list[Preset]:
            rows = connection.execute("SELECT name, text FROM preset WHERE owner = ? ORDER BY name", (owner,))
            return [Preset(*row) for row in rows]

        return await asyncio.wrap_future(self._shelf.read_file(find))

    async def get(self, owner: str, name: str) -> Preset:
        """Raises ``NotKept``."""
        found = next((preset for preset in await self.listed(owner) if preset.name == name), None)
        if found is None:
            raise _unknown(name)
        return found

    async def put(self, owner: str, preset: Preset) -> None:
        """Adds it, or takes the place of that name. Raises ``NotAllowed`` for an empty name and for too many."""
        if not 0 < len(preset.name.strip()) <= NAME_CHARS:
            raise NotAllowed(f"A preset's name has 1 to {NAME_CHARS} characters.", "Give it a short name.")

        def put(connection: sqlite3.Connection) -> None:
            (count,) = connection.execute(
                "SELECT count(*) FROM preset WHERE owner = ? AND name <> ?", (owner, preset.name)
            ).fetchone()
            if count >= MOST_PRESETS:
                raise NotAllowed(f"You have {count} presets, and there is no room for more.", "Delete some.")
            connection.execute(
                "INSERT OR REPLACE INTO preset (owner, name, text) VALUES (?, ?, ?)", (owner, preset.name, preset.text)
            )

        await asyncio.wrap_future(self._shelf.change_file(put))

    async def delete(self, owner: str, name: str) -> None:
        """For good. Raises ``NotKept``."""

        def delete(connection: sqlite3.Connection) -> None:
            if not connection.execute("DELETE FROM preset WHERE owner = ? AND name = ?", (owner, name)).rowcount:
                raise _unknown(name)

        await asyncio.wrap_future(self._shelf.change_file(delete, purge=True))


def _unknown(name: str) -> NotKept:
    return NotKept(f"There is no preset {name!r}.", "Reload the page.")
