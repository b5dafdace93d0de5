"""The conversations of all users, kept by the server: a closed tab loses nothing, nor does the end of the app.

Each belongs to one user and is seen by nobody else, operators included. Their number is not bounded: a text is small,
and to drop what somebody has written would be the worse surprise.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from server_manager.conversations import search, tree
from server_manager.conversations.images import Image
from server_manager.conversations.presets import Presets
from server_manager.conversations.question import Question, Wanted
from server_manager.conversations.search import Listed
from server_manager.conversations.shelf import Shelf
from server_manager.conversations.tree import Dump
from server_manager.conversations.turn import Header, Turn, title_of
from server_manager.conversations.writing import Writing, place
from server_manager.errors import NotAllowed, NotKept, StateDirError

_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_RETRY_SECONDS = 15.0
TITLE_LIMIT = 200
"""Characters of a title."""


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of a conversation."""

    header: Header
    turns: tuple[Turn, ...]
    """From the beginning to the current leaf."""
    siblings: tuple[tuple[str, ...], ...]
    """For each turn the ids of all with the same parent, itself among them, the eldest first."""
    busy: bool
    """An answer is being made."""
    kept: bool
    """In the file: not temporary, and the file can be written."""


class ConversationStore:
    """To be used on the event loop. ``open`` it before the first request, ``close`` it after the last."""

    def __init__(self, path: Path | None = None, notices: list[str] | None = None) -> None:
        """In memory without a ``path``. ``notices`` gets what the users should know of the file."""
        self._shelf = Shelf(path, notices if notices is not None else [])
        self.presets = Presets(self._shelf)
        self._writings: dict[str, Writing] = {}
        self._deleting: set[str] = set()
        """Whose conversations are all being deleted."""
        self._retrying: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Opens the file; what is wrong with it becomes a notice, and conversations are kept in memory meanwhile."""
        await asyncio.wrap_future(self._shelf.open())
        self._retrying = asyncio.create_task(self._retry(), name="conversations")

    async def close(self) -> None:
        """Returns when all is written."""
        if self._retrying:
            self._retrying.cancel()
        await asyncio.to_thread(self._shelf.close)

    async def _retry(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            if self._shelf.has_adrift:
                await asyncio.wrap_future(self._shelf.open())

    # One answer

    @contextlib.asynccontextmanager
    async def writing(self, conversation: str, owner: str, *, keep: bool = True) -> AsyncIterator[Writing]:
        """Held while an answer is made. ``keep=False``: one that is not known yet is kept in memory only.

        Raises ``NotAllowed`` for a malformed id, and where another tab already holds it.
        """
        _check_id(conversation)
        await self._settled(conversation)
        if owner in self._deleting:
            raise NotAllowed("Your conversations are being deleted.", "Send again in a moment.")
        found = self._writings[conversation] = Writing(self._shelf, conversation, owner, keep=keep)
        try:
            yield found
        finally:  # without waiting: whoever is cut off gets no more time
            self._release(conversation, found)

    def _release(self, conversation: str, writing: Writing) -> None:
        """At once, or when the last word is saved: who comes next must find it there."""
        loop = asyncio.get_running_loop()

        def release() -> None:
            del self._writings[conversation]
            writing.released.set()
            if self._shelf.is_temporary(conversation):
                self._shelf.evict(set(self._writings))

        def saved(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody comes next
                loop.call_soon_threadsafe(release)

        writing.over = True
        if writing.answer and (saving := writing.answer.saving):  # asked once: it may end at any moment
            saving.add_done_callback(saved)
        else:
            release()

    async def _settled(self, conversation: str) -> None:
        """Until the last answer is saved. Raises ``NotAllowed`` while one is still being made."""
        while writing := self._writings.get(conversation):
            if not writing.over:
                raise NotAllowed("This conversation is being answered already.", "Wait for it, or stop it first.")
            await writing.released.wait()

    # What is there

    async def look(self, conversation: str, owner: str) -> View:
        """One conversation; one that nobody began is empty. Raises ``NotAllowed``, ``StateDirError``."""
        _check_id(conversation)

        def view(connection: sqlite3.Connection) -> tuple[Header, tuple[Turn, ...], tuple[tuple[str, ...], ...]]:
            if tree.header(connection, conversation) is None:
                return Header(conversation, owner), (), ()
            head = tree.owned(connection, conversation, owner)
            turns = tree.path(connection, conversation, head.leaf)
            siblings = tree.siblings(connection, conversation)
            return head, turns, tuple(siblings[turn.parent] for turn in turns)

        while True:
            writing = self._writings.get(conversation)
            head, turns, siblings = await self._shelf.read(conversation, view)
            if self._writings.get(conversation) is writing:  # else its last word was saved behind our back
                break
        if writing and writing.answer and turns and turns[-1].id == writing.answer.turn:
            content, reasoning = writing.answer.text  # newer than what was saved last
            turns = (*turns[:-1], replace(turns[-1], assistant=content, reasoning=reasoning))
        return View(head, turns, siblings, writing is not None, self._shelf.is_kept(conversation))

    async def place(self, conversation: str, owner: str, wanted: Wanted) -> Question:
        """Where a question would go, without asking it.

        Raises ``NotAllowed`` for somebody else's conversation, ``NotKept`` for turns and images it does not have.
        """
        _check_id(conversation)
        return (await place(self._shelf, conversation, owner, wanted))[1]

    async def listed(self, owner: str, query: str = "", limit: int = 500) -> list[Listed]:
        """The user's kept conversations, the newest first; with a ``query`` those whose title or texts hold each of
        its words. Raises ``StateDirError``."""

        def find(connection: sqlite3.Connection) -> list[Listed]:
            return search.find(connection, owner, query, limit)

        try:
            found = await asyncio.wrap_future(self._shelf.read_file(find))
        except StateDirError:
            if not self._shelf.has_adrift:
                raise
            found = []
        adrift = await asyncio.wrap_future(
            self._shelf.read_adrift(lambda connection, each: search.find(connection, owner, query, 1, only=each))
        )
        merged = {each.id: each for each in (*found, *(each for some in adrift for each in some))}
        return sorted(merged.values(), key=lambda each: each.updated, reverse=True)[:limit]

    async def image(self, conversation: str, owner: str, image_id: str) -> Image:
        """Raises ``NotAllowed``, ``NotKept``, ``StateDirError``."""
        _check_id(conversation)

        def find(connection: sqlite3.Connection) -> Image:
            tree.owned(connection, conversation, owner)
            if not (found := tree.images(connection, conversation, [image_id])):
                raise NotKept("There is no such image in this conversation.", "Reload the page.")
            return found[image_id]

        return await self._shelf.read(conversation, find)

    async def whole(self, conversation: str, owner: str) -> Dump:
        """All of a conversation, alternatives and images too. Raises ``NotAllowed``, ``NotKept``, ``StateDirError``."""
        _check_id(conversation)

        def find(connection: sqlite3.Connection) -> Dump:
            tree.owned(connection, conversation, owner)
            found = tree.dump(connection, conversation)
            assert found is not None
            return found

        return await self._shelf.read(conversation, find)

    # Changes

    async def change(
        self, conversation: str, owner: str, *, title: str | None = None, system_prompt: str | None = None
    ) -> None:
        """Sets what is given; an empty title is that of the first question again.

        Raises ``NotAllowed``, ``NotKept``, ``StateDirError``.
        """
        _check_id(conversation)

        def change(connection: sqlite3.Connection) -> None:
            tree.owned(connection, conversation, owner)
            if title is not None:
                name = " ".join(title.split())[:TITLE_LIMIT] or title_of(tree.first_question(connection, conversation))
                connection.execute("UPDATE conversation SET title = ? WHERE id = ?", (name, conversation))
            if system_prompt is not None:
                connection.execute(
                    "UPDATE conversation SET system_prompt = ? WHERE id = ?", (system_prompt, conversation)
                )

        await asyncio.wrap_future(self._shelf.change(conversation, change))

    async def select(self, conversation: str, owner: str, turn: str) -> View:
        """Shows the path through a turn, down to the newest of what follows it. Raises as ``change``."""
        _check_id(conversation)

        def select(connection: sqlite3.Connection) -> None:
            tree.owned(connection, conversation, owner)
            tree.turn(connection, conversation, turn)
            leaf = tree.newest_below(connection, conversation, turn)
            connection.execute("UPDATE conversation SET leaf = ? WHERE id = ?", (leaf, conversation))

        await asyncio.wrap_future(self._shelf.change(conversation, select))
        return await self.look(conversation, owner)

    async def branch(self, conversation: str, owner: str, turn: str) -> str:
        """A new conversation with the path up to a turn; its id. Raises as ``change``."""
        _check_id(conversation)
        new_id = secrets.token_hex(16)

        def branch(connection: sqlite3.Connection) -> None:
            head = tree.owned(connection, conversation, owner)
            tree.branch(connection, head, turn, new_id)

        await asyncio.wrap_future(self._shelf.change(conversation, branch, born=new_id))
        return new_id

    async def delete(self, conversation: str, owner: str) -> None:
        """For good. Raises ``NotAllowed`` while it is answered, and ``StateDirError``: then it is still there."""
        await self.look(conversation, owner)
        async with self.writing(conversation, owner):  # an answer that begins meanwhile would bring it back
            await asyncio.wrap_future(self._shelf.delete([conversation]))

    async def delete_all(self, owner: str) -> int:
        """All of the user's, temporary ones too; their number. Raises as ``delete``, with nothing deleted."""
        if owner in self._deleting:
            raise NotAllowed("Your conversations are being deleted.", "Wait a moment.")
        self._deleting.add(owner)  # an answer that begins meanwhile would bring its conversation back
        try:
            for conversation in [each for each, writing in self._writings.items() if writing.owner == owner]:
                await self._settled(conversation)
            return await asyncio.wrap_future(self._shelf.delete_all(owner))
        finally:
            self._deleting.discard(owner)


def _check_id(conversation: str) -> None:
    """Raises ``NotAllowed``."""
    if not _ID.fullmatch(conversation):
        raise NotAllowed("That is not the id of a conversation.", "Reload the page.")
