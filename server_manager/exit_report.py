"""From the error that ended a server's life to the report that people read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from server_manager.diagnosis import Diagnosis, diagnose_file, diagnose_refusal
from server_manager.errors import ServerManagerError, SpecError, StartAborted, StartError, StartStalled, StopError
from server_manager.launchers.base import HandleRecord
from server_manager.log_file import tail
from server_manager.server_state import ExitCause, ServerExit
from server_manager.shell_line import parse_shell_line, shell_line

_LOG_TAIL_LINES = 60


def report_end(error: ServerManagerError, *, served: bool, record: HandleRecord | None, seconds: float) -> ServerExit:
    """The report of an end that nobody asked for.

    ``served`` tells a crash from a failed start (the returncode cannot: vLLM exits with 0 when its engine dies);
    ``record`` is ``None`` where no process was created; ``seconds`` is how long this life lasted.
    """
    report = ServerExit(ExitCause.NOT_LAUNCHED, error.message, error.next_step, error.code, seconds=seconds)
    if record is None:
        return replace(report, diagnosis=diagnose_refusal(error))
    report = replace(report, log_tail=tuple(tail(Path(record.log_path), _LOG_TAIL_LINES)))
    if isinstance(error, StartStalled):
        # vLLM's API server may hang when its engine has failed.
        found = _diagnose(record, served=False, returncode=None)
        return replace(report, cause=ExitCause.STALLED, diagnosis=found)
    report = replace(report, cause=ExitCause.CRASHED if served else ExitCause.FAILED_TO_START)
    if not isinstance(error, StartError):
        return report
    returncode = error.facts.get("returncode")
    # One that still shuts down after its engine died has none yet; that it ends unasked is known all the same.
    found = _diagnose(record, served=served, returncode=returncode if isinstance(returncode, int) else 0)
    if found is None or (error.next_step and not found.evidence):  # the log proves nothing, and we know better
        return report
    said = found.title if found.known or not found.evidence else found.evidence
    return replace(report, message=f"{error.message} {said}", next_step=found.remedy, diagnosis=found)


def _diagnose(record: HandleRecord, *, served: bool, returncode: int | None) -> Diagnosis | None:
    try:
        return diagnose_file(
            Path(record.log_path),
            returncode=returncode,
            served=served,
            options=_options(record.argv),
            env={**os.environ, **record.env},
            whole_run=True,
        )
    except OSError:  # somebody removed it
        return None


def _options(argv: Sequence[str]) -> Mapping[str, object]:
    """The flags that vLLM got; empty where they cannot be read as flags (which it says itself then)."""
    try:
        served = argv[argv.index("serve") + 1 :]
        spec = parse_shell_line(shell_line(("vllm", "serve", *served), {}))
    except (ValueError, SpecError):
        return {}
    return {"model": spec.model, **spec.options}


def report_survivors(report: ServerExit, pids: tuple[int, ...]) -> ServerExit:
    """The report of an end that left processes which not even SIGKILL ends."""
    return replace(
        report,
        code=StopError.code,
        message=f"Processes that not even SIGKILL ends: {', '.join(map(str, pids))}.",
        next_step="They usually wait for a driver; look at `dmesg`, and reboot if they stay.",
        diagnosis=None,
    )


def start_error(name: str, end: ServerExit | None) -> ServerManagerError:
    """What those are told who waited for a start that did not succeed."""
    if end is None or end.cause is ExitCause.STOPPED:
        return StartAborted(f"The start of {name} was cancelled.", "Start it again when you want it.", name=name)
    return StartError(f"{name} did not start. {end.message}", end.next_step, name=name, exit=end)
