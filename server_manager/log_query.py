"""Answers questions about a run's log: its end, what is new since, what has a word or a level in it.

Everything here blocks for as long as the disk takes: call it in a thread.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from server_manager.log_file import MAX_LINE_CHARS, clean_line
from server_manager.log_level import NOTABLE, Level, LevelReader
from server_manager.run_log import Extent, RunLog
from server_manager.secret_mask import SecretMask

_BREAK = re.compile(rb"\r\n|\n|\r")
_BLOCK_BYTES = 256 * 1024
"""Read at a time. Python lets other threads run between two steps, and a step takes about a millisecond."""
_LONGEST_LINE_BYTES = 2**20
_AVERAGE_LINE_BYTES = 200
_MOST_NEW_BYTES = 8 * 2**20
"""Since the last look. Who was away for longer gets the end of the log."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What somebody wants to see. ``search`` is plain text, its case does not matter."""

    tail: int = 200
    """The most lines of the answer. Where there are more hits, the first and the last ones stay."""
    search: str = ""
    warnings: bool = False
    """Only warnings and errors, with the lines of their tracebacks."""
    since: str = ""
    """``LogAnswer.cursor`` of an earlier answer to the same question."""
    begin: int | None = None
    """Position to begin at, in place of the log's end; for looking around a hit."""

    @property
    def filters(self) -> bool:
        return self.warnings or bool(self.search)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line as a terminal would show it."""

    at: int
    """Its position in the run."""
    number: int | None
    """As an editor counts, from 1; ``None`` where that was not counted."""
    level: Level
    text: str
    """Without secrets."""


@dataclass(frozen=True, slots=True)
class LogAnswer:
    """Lines of a run."""

    run: str = ""
    cursor: str = ""
    """For asking what is new since."""
    continues: bool = False
    """Whether the lines follow those of the answer that ``since`` came from; else they stand for themselves."""
    lines: tuple[LogLine, ...] = ()
    rest: str = ""
    """The beginning of a line that is not finished yet."""
    hits: int | None = None
    """Lines that match, of those that were looked at; ``None`` where nothing was asked for."""
    first_hits: int = 0
    """How many of ``lines`` stand before the hits that were left out."""
    bytes: int = 0
    """Of the whole run."""


@dataclass(frozen=True, slots=True)
class _Cursor:
    """A place in a run that an answer ended at."""

    run: str
    at: int
    number: int | None
    """Lines before it, where they were counted."""

    def __str__(self) -> str:
        return f"{self.run}-{self.at}-{'' if self.number is None else self.number}"

    @staticmethod
    def read(text: str) -> _Cursor | None:
        match = re.fullmatch(r"([0-9a-f.]{1,40})-(\d{1,18})-(\d{0,18})", text)
        return _Cursor(match[1], int(match[2]), int(match[3]) if match[3] else None) if match else None


def ask_log(log: RunLog, query: LogQuery, mask: SecretMask) -> LogAnswer:
    """The answer; an empty one where there is no log."""
    try:
        extent = log.extent()
        since = _Cursor.read(query.since)
        if since is None or since.run != extent.run or since.at > extent.end:
            since = None
        if query.filters:
            return _filtered(log, extent, query, mask, since)
        return _plain(log, extent, query, mask, since)
    except OSError:
        return LogAnswer()


def _plain(log: RunLog, extent: Extent, query: LogQuery, mask: SecretMask, since: _Cursor | None) -> LogAnswer:
    if since is not None and extent.end - since.at > _MOST_NEW_BYTES:
        since = None
    if since is not None:
        begin = since.at
    elif query.begin is not None:
        begin = _line_start(log, min(query.begin, extent.end))
    else:
        begin = _tail_start(log, extent, query.tail)
    begin, data = log.read_whole(begin, min(extent.end, begin + _MOST_NEW_BYTES))
    whole = _whole_lines(data)
    found = list(_lines(data[:whole], begin))
    if query.begin is not None and since is None and len(found) > query.tail:
        found = found[: query.tail]
        return _answer(extent, _Cursor(extent.run, found[-1][2], None), found, mask)
    # So many new ones that the older of them are left out: then they do not follow what was there.
    continues = since is not None and len(found) <= query.tail
    cursor = _Cursor(extent.run, begin + whole, None)
    return _answer(extent, cursor, found[-query.tail :], mask, continues=continues, rest=data[whole:])


def _answer(
    extent: Extent,
    cursor: _Cursor,
    found: list[tuple[int, bytes, int]],
    mask: SecretMask,
    *,
    continues: bool = False,
    rest: bytes = b"",
) -> LogAnswer:
    levels = LevelReader()
    lines = tuple(LogLine(at, None, levels.of(raw), mask.text(clean_line(raw))) for at, raw, _ in found)
    return LogAnswer(
        extent.run,
        str(cursor),
        continues,
        tuple(line for line in lines if line.text),
        mask.text(clean_line(rest[: MAX_LINE_CHARS * 4])),
        bytes=extent.end,
    )


def _filtered(log: RunLog, extent: Extent, query: LogQuery, mask: SecretMask, since: _Cursor | None) -> LogAnswer:
    """Looks through the run, or what is new of it."""
    if since is not None and since.number is None:
        since = None
    at, number = (since.at, since.number or 0) if since else (0, 0)
    half, hits = max(1, query.tail // 2), 0
    head: list[_Hit] = []
    tail: deque[_Hit] = deque(maxlen=half)
    scan = _Scan(query)
    for begin, block in _blocks(log, at, extent.end):
        for hit in scan.matching(block, begin, number):
            hits += 1
            (head if len(head) < half else tail).append(hit)
        number += block.count(b"\n")
        at = begin + len(block)
    first, last = _shown(head, query, mask), _shown(tail, query, mask)
    return LogAnswer(
        extent.run,
        str(_Cursor(extent.run, at, number)),
        since is not None,
        (*first, *last),
        hits=hits - (len(head) - len(first)) - (len(tail) - len(last)),
        first_hits=len(first),
        bytes=extent.end,
    )


_Hit = tuple[int, int, Level, bytes]
"""Position, line number, level and the line as it stands in the log."""


def _shown(hits: Iterable[_Hit], query: LogQuery, mask: SecretMask) -> list[LogLine]:
    """Those in which the text can still be seen: nobody shall find out a secret by searching for parts of it."""
    lines = [LogLine(at, number, level, mask.text(clean_line(raw))) for at, number, level, raw in hits]
    return [line for line in lines if line.text and query.search.casefold() in line.text.casefold()]


class _Scan:
    """Finds the lines that a query is after."""

    def __init__(self, query: LogQuery) -> None:
        self._search = re.compile(re.escape(query.search.encode()), re.IGNORECASE) if query.search else None
        self._warnings = query.warnings
        self._levels = LevelReader()

    def matching(self, block: bytes, at: int, number: int) -> Iterator[_Hit]:
        """``block`` holds whole lines, the first of them at position ``at``, ``number`` lines before it."""
        # Most blocks have nothing to offer, and telling so takes no loop over their lines.
        if self._warnings and not self._levels.inside and not NOTABLE.search(block):
            return
        if self._search and not self._warnings and not self._search.search(block):
            return
        for begin, raw, end in _lines(block, at):
            level = self._levels.of(raw)
            if not (self._warnings and level is Level.INFO) and not (self._search and not self._search.search(raw)):
                yield begin, number + 1, level, raw
            number += block.endswith(b"\n", 0, end - at)


def _blocks(log: RunLog, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines up to ``end`` with their position, some hundred KiB at a time; an unfinished one is left out."""
    rest = b""
    at = begin
    while at < end:
        piece = log.read(at, min(_BLOCK_BYTES, end - at))
        if not piece.data:
            return
        if piece.at != at:
            rest = b""  # what was to follow has been dropped
        data = rest + piece.data
        at = piece.at + len(piece.data)
        whole = _whole_lines(data)
        if not whole and len(data) > _LONGEST_LINE_BYTES:
            whole = len(data)
        if whole:
            yield at - len(data), data[:whole]
        rest = data[whole:]


def _lines(data: bytes, at: int) -> Iterator[tuple[int, bytes, int]]:
    """Each line that is not empty: its position, its bytes, and the position behind its line break."""
    begin = 0
    for match in _BREAK.finditer(data):
        yield at + begin, data[begin : match.start()], at + match.end()
        begin = match.end()
    if begin < len(data):
        yield at + begin, data[begin:], at + len(data)


def _whole_lines(data: bytes) -> int:
    """How many bytes belong to finished lines. A trailing ``\\r`` may be half of ``\\r\\n`` and finishes none."""
    return max(data.rfind(b"\n"), data.rfind(b"\r", 0, max(0, len(data) - 1))) + 1


def _tail_start(log: RunLog, extent: Extent, count: int) -> int:
    """A position from which at least ``count`` lines follow, as far as the log has them; 8 MiB at most."""
    block = max(64 * 1024, count * _AVERAGE_LINE_BYTES)
    most = min(extent.end - extent.begin, _MOST_NEW_BYTES)
    while True:
        block = min(block, most)
        begin, data = log.read_whole(extent.end - block, extent.end)
        if block == most or len(_BREAK.findall(data)) > count:
            first = _BREAK.search(data) if begin > extent.begin else None
            return begin + (first.end() if first else 0)
        block *= 4


def _line_start(log: RunLog, position: int) -> int:
    """The beginning of the line that the position lies in, as far as that is within reach."""
    begin, data = log.read_whole(max(0, position - 64 * 1024), position)
    if begin + len(data) != position:  # what is before was dropped
        return position
    return begin + max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
