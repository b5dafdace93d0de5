"""The line of a failed start's log that says why.

vLLM ends every failed start with "Engine core initialization failed. See root cause above", far below the cause. The
rule: an error that a worker or the engine's core logged first is the cause; without one it is the last exception that
is not such a wrapper; a complaint of the command line's parser always wins. ``EngineDeadError`` is a wrapper too: it
only says that the engine has gone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from server_manager.start_phase import strip_prefix

# "vllm serve: error: …"; run as a module, as we do, argparse calls it by its file, "main.py serve: error: …".
_PARSER_COMPLAINT = re.compile(r"^(?:vllm|\S+\.py)(?: \w+)*: error: (.+)$")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|NotFound\w*)(?:: .*)?$")
_PYDANTIC = re.compile(r"^(?:pydantic_core\S*ValidationError: )?\d+ validation errors? for \w+")
_WRAPPERS = (
    "WorkerProc initialization failed",
    "Engine core initialization failed",
    "See root cause above",
    "EngineDeadError",
)
_LOGGED_BY_ENGINE = re.compile(r"^\((?:EngineCore|Worker|VllmWorker)\S* pid=\d+\) ERROR ")
_MAX_CHARS = 600


def root_cause(lines: Sequence[str]) -> str | None:
    """The cause in vLLM's own words, or ``None`` where no line looks like one (a process that was killed)."""
    first_of_engine: str | None = None
    last: str | None = None
    for index, line in enumerate(lines):
        text = strip_prefix(line)
        if complaint := _PARSER_COMPLAINT.match(text):
            return complaint[1][:_MAX_CHARS]
        candidate = _candidate(text, lines[index + 1 :])
        if candidate is None:
            continue
        last = candidate
        if first_of_engine is None and _LOGGED_BY_ENGINE.match(line):
            first_of_engine = candidate
    cause = first_of_engine or last
    return cause[:_MAX_CHARS] if cause else None


def _candidate(text: str, following: Sequence[str]) -> str | None:
    """The exception that this line names; pydantic puts the text on the line after the next."""
    if any(wrapper in text for wrapper in _WRAPPERS):
        return None
    if _PYDANTIC.match(text):
        detail = next((strip_prefix(line).strip() for line in following if strip_prefix(line).startswith("  ")), "")
        return detail.split(" [type=")[0] or text
    return text if _EXCEPTION.match(text) else None
