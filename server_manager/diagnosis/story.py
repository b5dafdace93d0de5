"""What a log tells of one run of vLLM: how far it came, whether it was asked to stop, and what was raised."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from server_manager.diagnosis.exceptions import Chain, ExceptionReader
from server_manager.diagnosis.log_lines import LogLine, parse_line
from server_manager.start_phase import phase_of

_RUN_BEGINS = re.compile(r"(?:█|vLLM API server)\s+version \d|(?:^|\s)usage: (?:vllm|\S+\.py)\b")
# "vllm serve: error: …"; run as a module, as we do, argparse calls it by its file, "main.py serve: error: …".
_COMPLAINT = re.compile(r"^(?:vllm|\S+\.py)(?: [\w-]+)*: error: (.+)$")
_READY = re.compile(r"Application startup complete\.|Uvicorn running on ")
_STOP = re.compile(
    r"\[shutdown\] API server: shutdown triggered|Received (?:signal|SIGTERM|SIGINT)|Shutting down FastAPI HTTP"
)
_SHUTTING_DOWN = re.compile(r"^INFO: +Shutting down")
_CRASH = re.compile(
    r"EngineDeadError|EngineCore encountered a fatal error|died unexpectedly|engine core exited unexpectedly|"
    r"Got fatal signal from worker processes|EngineCore encountered an issue|Background loop has errored|"
    r"is already dead, terminating server process"
)
_ENDED = re.compile(
    r"^Killed$|^Terminated$|Bus error|[Ss]egmentation fault|Segfault encountered|^Aborted|[Ii]llegal instruction|"
    r"terminate called after|std::bad_alloc|Fatal Python error|core dumped|OOMKilled|oom-kill|"
    r"command not found|: not found$|No module named|exec format error|WorkerProc initialization failed|"
    r"Engine core initialization failed|Failed core proc|out of memory|CUDA error|cudaError|what\(\):|"
    r"Xid|Failed: (?:Cuda|NCCL) error"
)
"""Lines that may tell of an end which no exception tells of. Looked at only where something did end."""
_NOTABLE = (
    "version ", "usage: ", ": error: ", "Application startup", "Uvicorn running", "shutdown triggered", "hutting down",
    "Received ", "non-default args", "EngineDeadError", "EngineCore encountered", "unexpectedly", "fatal signal",
    "has errored", "already dead", "Killed", "Terminated", "Bus error", "egmentation fault", "Segfault", "Aborted",
    "llegal instruction", "terminate called", "bad_alloc", "Fatal Python", "core dumped", "oom-kill", "not found",
    "No module named", "exec format", "initialization failed", "Failed core proc", "out of memory", "CUDA error",
    "cudaError", "what():", "Xid", "Failed: ",
)  # fmt: skip
"""Words of which one is in every line that ``_note`` knows: looking for them is faster than the patterns."""
_RAISED = (
    "Error", "Traceback", "xception", "Interrupt", "Exit", "NotFound", "OutOfResources", "failed to start",
    "hit an exception", "fatal error", "Logging error", "WorkerProc",
)  # fmt: skip
"""The same for lines that may belong to an exception, or be what is logged right before one."""
_MOST_CHARS = 1_000
"""Of a line that are looked at: vLLM may print whole prompts."""
_NON_DEFAULT = re.compile(r"non-default args: (\{.*\})")
_ACCESS = ("INFO:     ", "INFO: ")


@dataclass(slots=True)
class Story:
    """One run, from its first line to its last or to where the next one begins."""

    lines: Sequence[str] = ()
    """Of the whole log, as they were given."""
    start: int = 0
    """Index of its first line."""
    end: int = 0
    """Index after its last."""
    complaint: LogLine | None = None
    """That of the command line's parser."""
    ready: LogLine | None = None
    """The first that says that it serves."""
    stop: LogLine | None = None
    """The first that says that it was asked to end."""
    crash: LogLine | None = None
    """The first that says that the engine is gone."""
    strays: list[LogLine] = field(default_factory=list)
    """Lines outside of exceptions that may tell of an end."""
    chains: list[Chain] = field(default_factory=list)
    arguments: Mapping[str, object] = field(default_factory=dict)
    """The flags that were given, as vLLM prints them, with dashes; empty where the line is missing."""

    @property
    def is_empty(self) -> bool:
        return not (self.complaint or self.chains or self.crash or self.ready)

    def parsed(self) -> Iterator[LogLine]:
        """All lines of the run. Slow for a long log: for what only a found cause needs to know."""
        for index in range(self.start, self.end):
            yield from parse_line(self.lines[index], index + 1)

    def last_progress(self) -> int:
        """Number of the last line that announces a phase of the start; 0 where none does."""
        for index in range(self.end - 1, self.start - 1, -1):
            if any(phase_of(line.text) for line in parse_line(self.lines[index], index + 1)):
                return index + 1
        return 0

    def last_match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The last line of the run that holds ``pattern``, with or without prefix."""
        for index in range(self.end - 1, self.start - 1, -1):
            if match := pattern.search(self.lines[index]):
                return match
        return None


def read_stories(lines: Sequence[str]) -> list[Story]:
    """The runs in a log, oldest first; containers that are restarted go on in the same log."""
    stories = [Story(lines)]
    reader = ExceptionReader()
    for index, raw in enumerate(lines):
        head = raw if len(raw) <= _MOST_CHARS else raw[:_MOST_CHARS]
        notable = any(word in head for word in _NOTABLE)
        if not (notable or reader.wants_all or any(word in head for word in _RAISED)):
            continue
        for line in parse_line(raw, index + 1):
            story = stories[-1]
            if notable and _RUN_BEGINS.search(head) and (story.ready or reader.chains or story.complaint):
                _close(story, reader, index)
                story, reader = Story(lines, index), ExceptionReader()
                stories.append(story)
            if notable:
                _note(story, line)
            reader.take(line)
    _close(stories[-1], reader, len(lines))
    return stories


def _close(story: Story, reader: ExceptionReader, end: int) -> None:
    story.chains = reader.finish()
    story.end = end


def _note(story: Story, line: LogLine) -> None:
    text = line.text[:_MOST_CHARS]
    if _COMPLAINT.match(text):
        story.complaint = story.complaint or line
    elif _READY.search(text):
        story.ready = story.ready or line
    elif _STOP.search(text) or (_SHUTTING_DOWN.match(text) and story.crash is None):
        story.stop = story.stop or line
    elif _CRASH.search(text):
        story.crash = story.crash or line
        story.strays.append(line)
    elif (not line.level or line.is_error) and not text.startswith((*_ACCESS, " ")) and _ENDED.search(text):
        story.strays.append(line)
    elif match := _NON_DEFAULT.search(line.text):
        story.arguments = _arguments(match[1])


def _arguments(text: str) -> dict[str, object]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # an object that prints as <…>
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(key).removeprefix("model_tag").replace("_", "-"): value for key, value in found.items() if key}
