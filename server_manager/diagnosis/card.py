"""A diagnosis as text, and the command ``explain``."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from server_manager.diagnosis.diagnose import diagnose
from server_manager.diagnosis.log_source import diagnose_file, lines_of
from server_manager.diagnosis.report import Diagnosis
from server_manager.diagnosis.story import read_stories
from server_manager.start_phase import StartPhase, StartProgress

_WIDTH = 100
_OF_VLLM = re.compile(r"(?:DEBUG|INFO|WARNING|ERROR) \d\d-\d\d \d\d:\d\d:\d\d |vllm", re.IGNORECASE)
"""In at least one line of every log of vLLM, however short."""
_MOST_BYTES = 512 * 1024 * 1024
FOUND, NO_FAILURE, UNREADABLE = 0, 1, 2
_PHASES = {
    StartPhase.PREPARE: "preparing",
    StartPhase.IMPORT: "loading Python modules",
    StartPhase.CONFIG: "reading the configuration",
    StartPhase.ENGINE: "starting vLLM's processes",
    StartPhase.WEIGHTS: "loading weights",
    StartPhase.COMPILE: "compiling",
    StartPhase.KV_CACHE: "reserving the KV cache",
    StartPhase.CUDA_GRAPHS: "capturing CUDA graphs",
    StartPhase.SERVING: "opening its port",
    StartPhase.FIRST_SLEEP: "going to sleep for the first time",
}


def explain(source: str) -> int:
    """Prints why the server ended whose log is the file ``source`` ("-": standard input); the exit code.

    0 where a cause was found, 1 where the log tells of no failure, 2 where it cannot be read.
    """
    try:
        if source == "-":
            lines = lines_of(sys.stdin.buffer.read(_MOST_BYTES))
            found = diagnose(lines)
        else:
            found = diagnose_file(Path(source), most_bytes=_MOST_BYTES)
            lines = lines_of(Path(source).read_bytes()) if found is None else []
    except OSError as error:
        print(f"{source} cannot be read: {error.strerror}.", file=sys.stderr)
        return UNREADABLE
    print("\n".join(card(found) if found else [no_failure(lines)]))
    return FOUND if found else NO_FAILURE


def card(found: Diagnosis) -> Iterator[str]:
    """What the page's card says, for a terminal."""
    yield from _wrapped(found.title)
    if found.evidence:
        yield ""
        place = f"line {found.line}" if found.line else "the log says"
        yield from _wrapped(found.evidence, f"  {place}: ", "      ")
    if found.remedy:
        yield ""
        yield from _wrapped(found.remedy)
    if found.fixes:
        yield ""
        yield from (f"  - {fix.label}" for fix in found.fixes)


def no_failure(lines: list[str]) -> str:
    """What a log without a failure tells: that the server was stopped, serves, or how far it came."""
    story = read_stories(lines)[-1]
    if story.stop is not None:
        return f"No failure: the server was asked to stop (line {story.stop.number})."
    if story.ready is not None:
        return f"No failure: the server was ready (line {story.ready.number}), and the log ends while it serves."
    if not any(line.strip() for line in lines):
        return "The log is empty."
    if not any(_OF_VLLM.search(line) for line in lines):
        return "Nothing in it looks like vLLM's log, so nothing can be said of it."
    progress = StartProgress()
    progress.take(line.text for line in story.parsed())
    return (
        f"No failure: the log ends while the server starts ({_PHASES[progress.reached.phase]}). If it does not run any "
        "more, it was killed from outside, which leaves no message; `dmesg` tells whether the kernel did it."
    )


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False)
