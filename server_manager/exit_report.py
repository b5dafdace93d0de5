"""From the error that ended a server's life to the report that people read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from server_manager.errors import ServerManagerError, StartAborted, StartError, StartStalled, StopError
from server_manager.log_file import tail
from server_manager.root_cause import root_cause
from server_manager.server_state import ExitCause, ServerExit

_LOG_TAIL_LINES = 60
_ROOT_CAUSE_LINES = 4_000


def report_end(error: ServerManagerError, *, served: bool, log_path: Path | None, seconds: float) -> ServerExit:
    """The report of an end that nobody asked for.

    ``served`` tells a crash from a failed start (the returncode cannot: vLLM exits with 0 when its engine dies);
    ``log_path`` is ``None`` where no process was created; ``seconds`` is how long this life lasted.
    """
    report = ServerExit(ExitCause.NOT_LAUNCHED, error.message, error.next_step, error.code, seconds=seconds)
    if log_path is None:
        return report
    report = replace(report, log_tail=tuple(tail(log_path, _LOG_TAIL_LINES)))
    if isinstance(error, StartStalled):
        return replace(report, cause=ExitCause.STALLED)
    report = replace(report, cause=ExitCause.CRASHED if served else ExitCause.FAILED_TO_START)
    if not isinstance(error, StartError):
        return report
    if reason := root_cause(tail(log_path, _ROOT_CAUSE_LINES)):
        return replace(report, message=f"{error.message} {reason}")
    return replace(
        report,
        message=f"{error.message} Its log names no reason.",
        next_step="A process that is killed leaves none: look with `dmesg` whether the kernel ran out of memory.",
    )


def report_survivors(report: ServerExit, pids: tuple[int, ...]) -> ServerExit:
    """The report of an end that left processes which not even SIGKILL ends."""
    return replace(
        report,
        code=StopError.code,
        message=f"Processes that not even SIGKILL ends: {', '.join(map(str, pids))}.",
        next_step="They usually wait for a driver; look at `dmesg`, and reboot if they stay.",
    )


def start_error(name: str, end: ServerExit | None) -> ServerManagerError:
    """What those are told who waited for a start that did not succeed."""
    if end is None or end.cause is ExitCause.STOPPED:
        return StartAborted(f"The start of {name} was cancelled.", "Start it again when you want it.", name=name)
    return StartError(f"{name} did not start. {end.message}", end.next_step, name=name, exit=end)
