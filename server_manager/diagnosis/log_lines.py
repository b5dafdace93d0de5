"""One line of a vLLM log without what others have put in front of it.

vLLM's own prefix is "(EngineCore pid=12) ERROR 11-22 10:09:42 [core.py:733] text": all of it optional, since raw lines
have none of it (0.32) or only the process (0.25). Container engines, journald and Ray put theirs before that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_MAX_CHARS = 16_384
"""Longer lines are cut; the longest known ones list all supported architectures (13,000)."""

_ANSI_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CARRIER = re.compile(
    r"(?:\[pod/[^\]]+\] )?"  # kubectl logs --prefix
    r"(?:[\w.-]+ +\| ?)?"  # docker compose
    r"(?:\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)? ?(?:std(?:out|err) [FP] )?)?"  # docker, CRI
    r"(?:\| )?"  # Docker Desktop
    r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ [\w.@-]+\[\d+\]: )?"  # journald
)
_OTHER_CARRIER = re.compile(
    r"(?:.{0,80}\d\d:\d\d:\d\d.{0,60}?|\[[^\]]{1,60}\]:? ?|[ |]{2,20})"
    r"(?=\((?:APIServer|EngineCore|Worker|VllmWorker|RayWorker|MainProcess|DPCoordinator)[^()]* pid=\d+[^()]*\) ?)"
)
"""Whatever supervisors write in front, in lines where vLLM's own prefix shows where it ends."""
_PROCESS = re.compile(r"\((?P<name>[^()]+?) (?:rank=\d+ )?pid=\d+(?:, ip=[^)]*)?\) ?")
_RECORD = re.compile(
    r"(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?:\d{4}-)?\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)? "
    r"\[?(?P<source>[\w./-]+\.\w+:\d+|[^\]\s]*)\] ?"
)
_RANK = re.compile(r"\[rank\d+\]: ?(?!\[)")  # PyTorch's, in front of each line of a traceback
_ENGINE_SOURCES = ("core.py:", "multiproc_executor.py:", "gpu_worker.py:", "gpu_model_runner.py:", "worker_base.py:")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line, or the part of one between carriage returns."""

    number: int
    """In the log, from 1."""
    text: str
    """Without any prefix; indentation is kept."""
    process: str = ""
    """"EngineCore", "Worker_TP0", …; empty where the line does not say."""
    level: str = ""
    """Empty for raw output: tracebacks, uvicorn, tqdm."""
    source: str = ""
    """File and line of the logging call, "core.py:733"."""

    @property
    def is_error(self) -> bool:
        """Logged as an error."""
        return self.level in ("ERROR", "CRITICAL")

    @property
    def of_engine(self) -> bool:
        """Whether the engine's core or a worker says it, and not the API server."""
        if self.process:
            return "EngineCore" in self.process or "Worker" in self.process
        return self.is_error and self.source.startswith(_ENGINE_SOURCES)


def parse_line(raw: str, number: int) -> Iterator[LogLine]:
    """The lines in one line of a file: several where it holds carriage returns or a JSON record of many lines."""
    if "\x1b" in raw:
        raw = _ANSI_ESCAPE.sub("", raw)
    parts = raw.split("\r") if "\r" in raw else (raw,)
    for part in parts:
        text = part.rstrip()[:_MAX_CHARS]
        if text or len(parts) == 1:
            if text.startswith("{"):
                yield from _json_lines(text, number)
            else:
                yield _plain(text, number)


def _plain(text: str, number: int) -> LogLine:
    text = text[_CARRIER.match(text).end() :]  # type: ignore[union-attr]  # every part is optional: always matches
    process = level = source = ""
    if " pid=" in text and (match := _OTHER_CARRIER.match(text)):
        text = text[match.end() :]
    while match := _PROCESS.match(text):
        process, text = match["name"], text[match.end() :]
    if match := _RECORD.match(text):
        level, source, text = match["level"], match["source"], text[match.end() :]
    elif text.startswith("[rank") and (match := _RANK.match(text)):
        text = text[match.end() :]
    return LogLine(number, text, process, level, source)


def _json_lines(text: str, number: int) -> Iterator[LogLine]:
    """A record of vLLM's JSON formatter or of Docker's json-file driver; any other text in braces as it stands."""
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if isinstance(record, dict) and isinstance(record.get("log"), str):
        yield from parse_line(record["log"].rstrip("\r\n"), number)
    elif isinstance(record, dict) and isinstance(record.get("message"), str) and "levelname" in record:
        process = str(record.get("vllm_process_name") or record.get("processName") or "")
        source = f"{record.get('filename', '')}:{record.get('lineno', '')}"
        message = "\n".join(str(record[key]) for key in ("message", "exc_info") if record.get(key))
        for line in message.splitlines():
            yield LogLine(number, line.rstrip()[:_MAX_CHARS], process, str(record["levelname"]), source)
    else:
        yield LogLine(number, text)
