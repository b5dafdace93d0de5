"""Where each conversation lies: in the file, or in memory.

In memory are those that are not to be kept, and, as long as the file cannot be written (full disk, held by another
program, damaged), those that are: they are brought home as soon as it can.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

from server_manager.conversations import tree
from server_manager.conversations.batches import Batches
from server_manager.conversations.database import Database, Work
from server_manager.conversations.tree import Draft
from server_manager.errors import NotKept, StateDirError

log = logging.getLogger(__name__)
T = TypeVar("T")

_RETRY_SECONDS = 10.0
"""After the file could not be written: until then all goes to memory at once, without waiting for the file."""
MOST_TEMPORARY = 500
MOST_TEMPORARY_BYTES = 256 * 2**20
"""Of memory for conversations that are not to be kept; beyond it those used longest ago go."""


class Shelf:
    """One file and one memory. Methods without ``_here`` are for the event loop and answer with futures."""

    def __init__(self, path: Path | None, notices: list[str]) -> None:
        """Without a ``path`` all is in memory. ``notices`` gets a sentence as long as the file cannot be written."""
        self._notices = notices
        self._notice = ""
        self._memory = Database()
        self._file = Database(path, self._tell_damage) if path else None
        self._saves = Batches[Draft](self._file.run, self._save_here) if self._file else None
        self._temporary: OrderedDict[str, None] = OrderedDict()
        self._adrift: set[str] = set()
        """Those to be kept that are in memory. Changed in the thread that writes the file alone."""
        self._failed_at: float | None = None

    @property
    def has_adrift(self) -> bool:
        return bool(self._adrift) or self._failed_at is not None

    def is_kept(self, conversation: str) -> bool:
        """Whether it is in the file."""
        return self._home(conversation) is self._file

    def add_temporary(self, conversation: str) -> None:
        """It is not known yet, and is not to be kept."""
        self._temporary[conversation] = None

    def is_temporary(self, conversation: str) -> bool:
        return conversation in self._temporary

    def open(self) -> Future[None]:
        """Tries the file; what is wrong with it becomes a notice."""
        return self._run(self._bring_home_here) if self._file else self._memory.run(lambda: None)

    async def read(self, conversation: str, work: Work[T]) -> T:
        """Reads where the conversation is now. Raises ``StateDirError``, and what ``work`` raises."""
        while True:
            home = self._home(conversation)
            try:
                found = await asyncio.wrap_future(home.read(work))
            except NotKept:
                if self._home(conversation) is home:
                    raise
            else:
                if self._home(conversation) is home:  # else it was brought home, or went adrift, meanwhile
                    return found

    def read_file(self, work: Work[T]) -> Future[T]:
        """Reads the kept ones; those adrift are not among them."""
        return (self._file or self._memory).read(work)

    def read_adrift(self, work: Callable[[sqlite3.Connection, str], T]) -> Future[list[T]]:
        """``work`` for each conversation that cannot be written at the moment."""
        adrift = sorted(self._adrift)
        return self._memory.read(lambda connection: [work(connection, each) for each in adrift])

    def save(self, draft: Draft) -> Future[None]:
        """Keeps a turn, in memory where the file cannot be written: raises nothing but our own mistakes."""
        if self._saves is None or self.is_temporary(draft.header.id):
            return self._memory.write(lambda connection: tree.save(connection, draft))
        return self._saves.add(draft)

    def change(self, conversation: str, work: Work[T], *, born: str | None = None) -> Future[T]:
        """Changes a conversation where it is; ``born`` is another one that ``work`` makes beside it.

        The future raises ``StateDirError``, and what ``work`` raises.
        """
        if self._file is None or self.is_temporary(conversation):
            if born and self.is_temporary(conversation):
                self.add_temporary(born)
            return self._memory.write(work)
        file = self._file

        def change() -> T:
            if conversation not in self._adrift:
                return file.write_here(work)
            found = self._memory.write(work).result()
            self._adrift.update({born} if born else ())
            return found

        return self._run(change)

    def change_file(self, work: Work[T], *, purge: bool = False) -> Future[T]:
        """Changes what is no conversation; ``purge``: for good. Raises as ``change``."""
        home = self._file or self._memory

        def change() -> T:
            found = home.write_here(work)
            if purge:
                home.purge_here()
            return found

        return self._run(change)

    def delete(self, conversations: list[str]) -> Future[None]:
        """For good, from the file and from memory. Raises ``StateDirError``: then they are still there."""
        if self._file is None or all(each in self._temporary for each in conversations):
            for each in conversations:
                self._temporary.pop(each, None)
            return self._memory.write(lambda connection: _delete(connection, conversations))
        return self._run(lambda: self._delete_here(conversations))

    def delete_all(self, owner: str) -> Future[int]:
        """All of somebody's; their number. Raises as ``delete``."""

        def theirs(connection: sqlite3.Connection) -> list[str]:
            return [row[0] for row in connection.execute("SELECT id FROM conversation WHERE owner = ?", (owner,))]

        def delete() -> int:
            found = set(self._memory.read(theirs).result())
            if self._file:
                found.update(self._file.write_here(theirs))
                self._delete_here(sorted(found))
            return len(found)

        def delete_from_memory(connection: sqlite3.Connection) -> int:
            found = theirs(connection)
            _delete(connection, found)
            return len(found)

        return self._run(delete) if self._file else self._memory.write(delete_from_memory)

    def evict(self, busy: set[str]) -> None:
        """Drops temporary conversations where there are too many; those that are ``busy`` stay."""
        idle = [each for each in list(self._temporary) if each not in busy]
        self._memory.write(lambda connection: self._evict_here(connection, idle))

    def touch(self, conversation: str) -> None:
        """It is in use: others go before it."""
        if conversation in self._temporary:
            self._temporary.move_to_end(conversation)

    def close(self) -> None:
        """Blocks until all is written that can be. A second time does nothing."""
        if self._file and not self._file.is_closed:
            self._run(self._bring_home_here).result()
            self._file.close()
            if self._adrift:
                log.error("%d conversations could not be written and are lost: %s", len(self._adrift), self._notice)
        self._memory.close()

    def _run(self, work: Callable[[], T]) -> Future[T]:
        """In the thread that writes, after all that was asked before, and before whatever is asked later."""
        if self._saves:
            self._saves.close()
        return (self._file or self._memory).run(work)

    def _home(self, conversation: str) -> Database:
        in_memory = conversation in self._temporary or conversation in self._adrift
        return self._memory if in_memory or self._file is None else self._file

    # In the thread that writes the file

    def _save_here(self, drafts: Sequence[Draft]) -> None:
        assert self._file is not None
        if self._failed_at is not None and time.monotonic() - self._failed_at > _RETRY_SECONDS:
            self._bring_home_here()
        save = partial(_save, drafts=drafts)
        try:
            if self._failed_at is None:
                try:
                    self._file.write_here(save)
                    return
                except StateDirError as error:
                    self._fail(error)
            self._memory.write(save).result()
        except Exception:  # a mistake in one of them, whatever it is, must not cost the others
            if len(drafts) == 1:
                raise
            self._save_each_here(drafts)
            return
        self._adrift.update(draft.header.id for draft in drafts)

    def _save_each_here(self, drafts: Sequence[Draft]) -> None:
        mistakes = []
        for draft in drafts:
            try:
                self._save_here([draft])
            except Exception as error:  # noqa: BLE001  # as above
                mistakes.append(error)
        if mistakes:
            raise mistakes[0]

    def _bring_home_here(self) -> None:
        """Writes what is adrift into the file, if that works by now."""
        assert self._file is not None
        try:
            self._file.write_here(lambda connection: None)
            for conversation in tuple(self._adrift):
                whole = self._memory.read(partial(tree.dump, conversation=conversation)).result()
                self._file.write_here(partial(tree.restore, dump=whole))
                self._adrift.discard(conversation)
                self._memory.write(partial(_delete, conversations=[conversation])).result()
        except StateDirError as error:
            self._fail(error)
            return
        self._failed_at = None
        self._say("")

    def _delete_here(self, conversations: list[str]) -> None:
        assert self._file is not None
        self._file.write_here(lambda connection: _delete(connection, conversations))
        self._adrift.difference_update(conversations)
        for each in conversations:
            self._temporary.pop(each, None)
        self._memory.write(lambda connection: _delete(connection, conversations)).result()
        self._file.purge_here()

    def _fail(self, error: StateDirError) -> None:
        self._failed_at = time.monotonic()
        self._say(f"{error} Until then conversations are kept in memory only.")

    def _say(self, notice: str) -> None:
        if notice == self._notice:
            return
        if self._notice in self._notices:
            self._notices.remove(self._notice)
        if notice:
            log.error("%s", notice)
            self._notices.append(notice)
        self._notice = notice

    def _tell_damage(self, text: str) -> None:
        log.error("%s", text)
        self._notices.append(text)

    # In memory's thread

    def _evict_here(self, connection: sqlite3.Connection, idle: list[str]) -> None:
        for count, conversation in enumerate(idle):
            pages, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
            if len(idle) - count <= MOST_TEMPORARY and (pages - free) * size <= MOST_TEMPORARY_BYTES:
                return
            self._temporary.pop(conversation, None)
            _delete(connection, [conversation])


def _save(connection: sqlite3.Connection, drafts: Sequence[Draft]) -> None:
    for draft in drafts:
        tree.save(connection, draft)


def _delete(connection: sqlite3.Connection, conversations: list[str]) -> None:
    connection.executemany("DELETE FROM conversation WHERE id = ?", [(each,) for each in conversations])
