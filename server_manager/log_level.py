"""How bad a line of a log is: vLLM's, uvicorn's and the app's own levels, Python's warnings and tracebacks."""

from __future__ import annotations

import re
from enum import StrEnum


class Level(StrEnum):
    """What the page tells apart."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_PREFIX = rb"(?:\([^()]{1,80} pid=\d+\) )?"
_LEVEL = re.compile(
    _PREFIX + rb"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ )?(DEBUG|INFO|WARNING|ERROR|CRITICAL)(?:[ :])"
    # glog's form, which PyTorch's C++ code uses: "[rank0]:[W1122 10:09:42.1 …", "W1122 10:09:42".
    rb"|" + _PREFIX + rb"(?:\[rank\d+\]:)?\[?([IWEF])\d{4} \d\d:\d\d:\d\d"
)
_LEVELS = {
    b"WARNING": Level.WARNING,
    b"W": Level.WARNING,
    b"ERROR": Level.ERROR,
    b"CRITICAL": Level.ERROR,
    b"E": Level.ERROR,
    b"F": Level.ERROR,
}
_TRACEBACK = re.compile(_PREFIX + rb"Traceback \(most recent call last\):")
_INSIDE = re.compile(_PREFIX + rb"(?:\s|\Z|During handling|The above exception)")
_EXCEPTION = re.compile(_PREFIX + rb"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)(?::|\Z)")
_WARNING = re.compile(rb"\w+Warning: ")
NOTABLE = re.compile(rb"WARNING|ERROR|CRITICAL|Traceback|Warning: |Error|Exception|Interrupt|[WEF]\d{4} ")
"""A block of lines without any of this has no line above ``INFO``, unless it begins inside a traceback."""


class LevelReader:
    """Tells the level of one line after another: a traceback's lines belong to it though they bear no level."""

    def __init__(self) -> None:
        self.inside = False
        """Whether the last line was part of a traceback."""

    def of(self, line: bytes) -> Level:
        """``line`` is without its line break."""
        if match := _LEVEL.match(line):
            self.inside = False
            return _LEVELS.get(match[1] or match[2], Level.INFO)
        if _TRACEBACK.match(line):
            self.inside = True
            return Level.ERROR
        if self.inside:
            self.inside = _INSIDE.match(line) is not None
            return Level.ERROR
        if _EXCEPTION.match(line):
            return Level.ERROR
        return Level.WARNING if _WARNING.search(line) else Level.INFO
