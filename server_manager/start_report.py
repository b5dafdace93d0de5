"""A start as the command line shows it: `app.py start NAME --wait`, and the phase in `app.py status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from server_manager.errors import StartError

_LOOK_S = 0.5
_PHASES = {
    "prepare": "preparing",
    "import": "loading Python modules",
    "config": "reading the configuration",
    "engine": "starting vLLM's processes",
    "download": "downloading the weights",
    "weights": "loading weights",
    "compile": "compiling",
    "kv_cache": "reserving the KV cache",
    "cuda_graphs": "capturing CUDA graphs",
    "serving": "opening the port",
    "first_sleep": "first sleep, so that switching is quick",
}

Status = Mapping[str, Any]
"""As ``GET /api/servers/NAME`` gives it."""


def phase_line(status: Status) -> str:
    """ "loading weights 2/4, about 12 s left" for a server that starts; empty for any other."""
    if status["state"] != "starting":
        return ""
    phase = status.get("phase") or "prepare"
    doing = f"{_PHASES.get(phase, phase)} {status['detail']}".strip()
    return ", ".join(filter(None, (doing, _left(status))))


def _left(status: Status) -> str:
    progress = status.get("progress") or {}
    if progress.get("overdue"):
        return "longer than usual"
    eta_s = progress.get("eta_s")
    return "" if eta_s is None else f"about {_seconds(max(eta_s, 1))} left"


def wait_for_start(
    look: Callable[[], Status], *, out: TextIO | None = None, pause: Callable[[float], None] = time.sleep
) -> None:
    """Prints each phase as it goes, until the server is ready. Raises ``StartError`` with the reason where it fails.

    On a terminal the line of a phase is rewritten as it goes; elsewhere each phase has one line.
    """
    out = out or sys.stdout
    screen = _Screen(out)
    while True:
        status = look()
        if status["state"] != "starting":
            break
        screen.show(status["phase"] or "prepare", phase_line(status), status.get("elapsed_s"))
        pause(_LOOK_S)
    screen.end()
    if status["state"] not in ("ready", "asleep"):
        end = status["exit"] or {"message": f"It is {status['state']}.", "next_step": ""}
        raise StartError(end["message"], end["next_step"])
    print(_summary(status), file=out, flush=True)


def _summary(status: Status) -> str:
    """ "ready after 41 s (last time 39 s): URL"; from the process on, where that is known of the last start too."""
    progress = status.get("progress") or {}
    before, took = progress.get("last_total_s"), progress.get("elapsed_s")
    if not before:
        took = status["ready_at"] - status["started_at"] if status["ready_at"] and status["started_at"] else None
    text = "ready" if took is None else f"ready after {_seconds(took)}"
    if took is not None and before:
        text += f" (last time {_seconds(before)})"
    return f"{text}: {status['base_url']}" if status["base_url"] else text


def _seconds(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


class _Screen:
    """Lines on a terminal, or in a file."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty()
        self._phase = ""

    def show(self, phase: str, text: str, elapsed_s: float | None) -> None:
        """The present phase."""
        if not self._live:
            if phase != self._phase:
                print(text, file=self._out, flush=True)
        else:
            if self._phase and phase != self._phase:
                print(file=self._out)
            clock = f"{elapsed_s:5.0f} s  " if elapsed_s is not None else ""
            print(f"\r\x1b[K{clock}{text}", end="", file=self._out, flush=True)
        self._phase = phase

    def end(self) -> None:
        """After the last phase."""
        if self._live and self._phase:
            print(file=self._out)
