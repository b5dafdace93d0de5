"""The exceptions that a log tells of: tracebacks and what follows them, chained ones together.

vLLM prints most of them several times: the worker logs one, the engine's core logs and raises it again, the API server
raises "Engine core initialization failed. See root cause above". Here they are only read; which one is the cause is
decided in ``root_cause``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from server_manager.diagnosis.log_lines import LogLine

_TRACEBACK = "Traceback (most recent call last)"
_CHAINED = re.compile(r"^(?:The above exception was the direct cause|During handling of the above exception)")
_NAME = r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:\([\w.]+\))?"
_ENDS_TRACEBACK = re.compile(rf"^(?!(?:INFO|WARNING|ERROR|DEBUG|CRITICAL):){_NAME}(?:: .+)$|^(?:[a-z_]\w*\.)+[A-Z]\w+$")
_LOOKS_RAISED = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|NotFound\w*|"
    r"OutOfResources)(?:\([\w.]+\))?(?::(?: .*)?)?$"
)
_PYDANTIC = re.compile(r"^(?:pydantic_core\S*ValidationError: )?\d+ validation errors? for \w+")
_FRAME = re.compile(r'^\s*File ".*", line \d+, in (\S+)')
_BEGINS_ANEW = re.compile(
    r"^(?:Traceback \(|The above exception|During handling of|Exception (?:ignored )?in|usage: |\[rank\d+\]:\[|"
    r"(?:INFO|WARNING|ERROR|DEBUG|CRITICAL):|[WEIF]\d{4} |/\S+\.py:\d+: |Loading \w+ checkpoint|nanobind:|Killed$)"
)
"""Raw lines that cannot belong to the message of an exception."""
_ASIDE = re.compile(
    r"^(?:Exception ignored in|Exception in ASGI application|--- Logging error|Error in atexit|Exception in thread|"
    r"future: <|Task exception was never retrieved|Future exception was never retrieved|Error in sys\.excepthook)"
)
"""What stands before tracebacks that end nothing."""
_MOST_MESSAGE_LINES = 24
_MOST_FRAME_LINES = 600
_MAX_MESSAGE_CHARS = 16_384


@dataclass(slots=True)
class Raised:
    """One exception as the log shows it."""

    line: LogLine
    """The line that names it; pydantic's has only a count, there it is the line of the first mistake."""
    text: str
    """That line in full: "ValueError: …"."""
    lines: list[LogLine]
    """All lines of the message, the one that names it first."""
    frames: tuple[str, ...] = ()
    """Names of the functions in the traceback, outermost first."""
    head: str = ""
    """What was logged right before the traceback: "EngineCore failed to start."."""

    @property
    def message(self) -> str:
        """The whole message, line by line."""
        return "\n".join(line.text for line in self.lines)[:_MAX_MESSAGE_CHARS]

    @property
    def of_engine(self) -> bool:
        return self.line.of_engine


Chain = list[Raised]
"""Exceptions of which each was raised while the one before was handled; the last one is what came out."""


@dataclass(slots=True)
class _Block:
    """A traceback that is being read."""

    head: str
    aside: bool
    source: str
    frames: list[str] = field(default_factory=list)
    seen: int = 0
    raised: Raised | None = None


@dataclass(slots=True)
class ExceptionReader:
    """Collects chains from lines that are handed to it one by one; processes may be mixed."""

    chains: list[Chain] = field(default_factory=list)
    _open: dict[tuple[str, bool], _Block] = field(default_factory=dict)
    _before: dict[tuple[str, bool], str] = field(default_factory=dict)
    _last_chain: dict[tuple[str, bool], Chain] = field(default_factory=dict)
    _continues: set[tuple[str, bool]] = field(default_factory=set)

    @property
    def wants_all(self) -> bool:
        """Whether the next lines belong to something, whatever they look like."""
        return bool(self._open)

    def take(self, line: LogLine) -> None:
        """Reads one more line."""
        key, text = (line.process, bool(line.level)), line.text
        block = self._open.get(key)
        if text.startswith(_TRACEBACK):
            self._close(key)
            head = self._before.get(key, "")
            quiet = bool(line.level) and not line.is_error
            self._open[key] = _Block(head, quiet or bool(_ASIDE.match(head)), line.source)
        elif block is None:
            self._outside(line, key)
        elif block.raised is None:
            self._in_frames(line, key, block)
        else:
            self._in_message(line, key, block)

    def finish(self) -> list[Chain]:
        """All chains, in the order in which they began."""
        for key in list(self._open):
            self._close(key)
        return self.chains

    def _outside(self, line: LogLine, key: tuple[str, bool]) -> None:
        if _CHAINED.match(line.text):
            self._continues.add(key)
        elif (not line.level or line.is_error) and (_LOOKS_RAISED.match(line.text) or _PYDANTIC.match(line.text)):
            block = _Block(self._before.get(key, ""), bool(_ASIDE.match(self._before.get(key, ""))), line.source)
            self._open[key] = block
            self._raise(line, key, block)
        elif line.text.strip():
            self._before[key] = line.text

    def _in_frames(self, line: LogLine, key: tuple[str, bool], block: _Block) -> None:
        block.seen += 1
        if match := _FRAME.match(line.text):
            block.frames.append(match[1])
        elif _ENDS_TRACEBACK.match(line.text) or _LOOKS_RAISED.match(line.text):
            self._raise(line, key, block)
        elif block.seen > _MOST_FRAME_LINES or (line.level and line.source != block.source):
            del self._open[key]  # the log was cut, or somebody else's line: this one has no end

    def _raise(self, line: LogLine, key: tuple[str, bool], block: _Block) -> None:
        block.raised = Raised(line, line.text, [line], tuple(block.frames), block.head)
        if block.aside:
            return
        chain = self._last_chain.get(key) if key in self._continues else None
        if chain is None:
            chain = self._last_chain[key] = []
            self.chains.append(chain)
        self._continues.discard(key)
        chain.append(block.raised)

    def _in_message(self, line: LogLine, key: tuple[str, bool], block: _Block) -> None:
        assert block.raised is not None
        is_other = line.source != block.source or bool(_BEGINS_ANEW.match(line.text))
        is_other = is_other or bool(_LOOKS_RAISED.match(line.text))
        if is_other or len(block.raised.lines) >= _MOST_MESSAGE_LINES:
            self._close(key)
            self._outside(line, key)
        else:
            block.raised.lines.append(line)

    def _close(self, key: tuple[str, bool]) -> None:
        block = self._open.pop(key, None)
        if block is not None and block.raised is not None:
            _complete(block.raised)


def _complete(raised: Raised) -> None:
    """Once all lines of the message are known: of a pydantic error the first mistake is what counts."""
    while len(raised.lines) > 1 and not raised.lines[-1].text.strip():
        raised.lines.pop()
    if not _PYDANTIC.match(raised.text):
        return
    for index, line in enumerate(raised.lines[1:], 1):
        if _is_indented(line.text) and line.text.strip():
            field_name = raised.lines[index - 1].text.strip() if index > 1 else ""
            detail = line.text.strip().split(" [type=")[0]
            raised.line = line
            raised.text = f"{field_name}: {detail}" if field_name else detail
            return


def _is_indented(text: str) -> bool:
    return text.startswith((" ", "\t"))


def read_exceptions(lines: Iterable[LogLine]) -> list[Chain]:
    """The chains in some lines."""
    reader = ExceptionReader()
    for line in lines:
        reader.take(line)
    return reader.finish()
