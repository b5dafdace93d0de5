"""One SQLite file (or memory), off the event loop: a thread that writes, and a few that read meanwhile.

Errors of SQLite and of the disk come out as ``StateDirError`` that says what to do. A file that is damaged is put aside
under another name, never deleted, and a new one begun.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from server_manager.conversations import schema
from server_manager.errors import StateDirError

log = logging.getLogger(__name__)
T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_READERS = 3
_BUSY_SECONDS = 2.0
"""How long a write waits for another program that holds the file."""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class Database:
    """``write`` and ``read`` answer with a future of ``concurrent.futures``; writes keep the order of the calls."""

    def __init__(self, path: Path | None = None, on_damage: Callable[[str], None] = log.error) -> None:
        """In memory without a ``path``. ``on_damage`` is told, in any thread, what became of a damaged file."""
        self._path = path
        self._on_damage = on_damage
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="conversations")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="conversations-read")
        self._connection: sqlite3.Connection | None = None
        self._local = threading.local()
        self._reading: list[sqlite3.Connection] = []
        self._generation = 0
        """How often a file was put aside: connections of an earlier one are of no use."""
        self._purge_due = False
        self.is_closed = False

    def run(self, work: Callable[[], T]) -> Future[T]:
        """Does ``work`` in the thread that writes, where it may call ``write_here``."""
        return self._writer.submit(work)

    def write(self, work: Work[T]) -> Future[T]:
        """Does ``work`` as one transaction. The future raises ``StateDirError``, and what ``work`` raises."""
        return self._writer.submit(self.write_here, work)

    def read(self, work: Work[T]) -> Future[T]:
        """Does ``work`` on one state of the file, beside whatever is being written. Raises as ``write``."""
        if self._path is None:
            return self.write(work)  # memory has one connection
        return self._readers.submit(self._read, work)

    def write_here(self, work: Work[T]) -> T:
        """``write`` for who is in its thread already. Where the file is damaged, it is done in the new one."""
        try:
            return self._write(work)
        except StateDirError as error:
            if not error.facts.get("put_aside"):
                raise
            return self._write(work)

    def _write(self, work: Work[T]) -> T:
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                found = work(connection)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except (sqlite3.Error, OSError) as error:
            raise self._explained(error) from error
        if self._purge_due:
            self.purge_here()
        return found

    def purge_here(self) -> None:
        """Makes what was deleted unreadable in the files, too. In the thread that writes.

        SQLite overwrites it in the file itself; the write-ahead log would hold it for a good while longer.
        """
        self._purge_due = True
        with contextlib.suppress(sqlite3.Error, OSError):  # it stays due
            self._purge(self._open())

    def close(self) -> None:
        """Blocks until all that was asked is done. Nothing may be asked afterwards."""
        self.is_closed = True
        self._readers.shutdown()
        self._writer.shutdown()
        for connection in self._reading:
            connection.close()
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):  # as much as possible: the log is read at the next start
                if self._purge_due:
                    self._purge(self._connection)
                self._connection.close()
            self._connection = None

    def _read(self, work: Work[T]) -> T:
        generation = self._generation
        try:
            if self._connection is None:
                self._writer.submit(self._open).result()
            connection = self._reader()
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except (sqlite3.Error, OSError) as error:
            raise self._writer.submit(self._explained, error, generation).result() from error

    def _reader(self) -> sqlite3.Connection:
        """This thread's own connection."""
        if getattr(self._local, "generation", None) != self._generation:
            assert self._path is not None
            self._local.generation = self._generation
            self._local.connection = connection = _connect(self._path)
            connection.execute("PRAGMA query_only = ON")
            self._reading.append(connection)
        found: sqlite3.Connection = self._local.connection
        return found

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        if self._path is not None:
            self._path.touch(mode=0o600)  # SQLite gives its other files the same mode
            self._path.chmod(0o600)
        connection = _connect(self._path)
        try:
            schema.version(connection)  # before anything is changed
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA foreign_keys = ON")
            if self._path is not None:
                _write_ahead(connection)
            schema.migrate(connection)
            schema.close_unfinished(connection)
            self._purge(connection)  # of an app that was killed before it had come to it
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _purge(self, connection: sqlite3.Connection) -> None:
        connection.executescript("PRAGMA incremental_vacuum")  # execute() would give back a single page
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._purge_due = bool(busy)  # another program reads the old state: again after the next write

    def _explained(self, error: Exception, generation: int | None = None) -> StateDirError:
        """In words. Puts the file aside where it is damaged, unless that was one of another ``generation``.

        In the thread that writes.
        """
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the details
        if isinstance(error, StateDirError):
            return error
        if code in _DAMAGED and self._path is not None and generation in (None, self._generation):
            return self._put_aside(self._path, error)
        what, remedy = str(error), "Give this user the right to write there"
        if code == sqlite3.SQLITE_FULL or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            what, remedy = "the disk is full", "Free some space on that disk"
        elif code in _LOCKED:
            what, remedy = "another program holds the file", "End what has it open"
        return StateDirError(
            f"The conversations in {self._path} cannot be read or written: {what}.",
            f"{remedy}, or choose another folder with --state-dir.",
            path=str(self._path),
        )

    def _put_aside(self, path: Path, error: Exception) -> StateDirError:
        self._generation += 1
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{self._generation}")
        try:
            # The log first: SQLite must not take it for that of the new file. Beside the old one it can be read again.
            for end in ("-wal", "-shm", ""):
                with contextlib.suppress(FileNotFoundError):
                    path.with_name(path.name + end).rename(aside.with_name(aside.name + end))
        except OSError as problem:
            return StateDirError(
                f"The conversations in {path} are damaged ({error}), and the file cannot be put aside: {problem}.",
                "Move it away, or choose another folder with --state-dir.",
                path=str(path),
            )
        told = StateDirError(
            f"{path} with the conversations is damaged ({error}). It is kept as {aside.name}, and a new one is begun.",
            f"What can be saved is read by: sqlite3 {aside} .recover",
            path=str(path),
            put_aside=aside.name,
        )
        self._on_damage(str(told))
        return told


def _connect(path: Path | None) -> sqlite3.Connection:
    # Closed by another thread than it is used in, hence the check is off; isolation_level: transactions are ours.
    connection = sqlite3.connect(
        path or ":memory:", timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA temp_store = MEMORY")  # what is sorted must not lie in /tmp
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """With a write-ahead log a crash costs nothing, and reading does not wait for writing."""
    try:
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_IOERR:
            raise
        # A network's disk without shared memory.
        connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {4 * 2**20}")
