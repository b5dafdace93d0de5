"""A load test on the command line: its progress in lines, and its results as files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

from server_manager.errors import StateDirError
from server_manager.load_test.chart import draw_png
from server_manager.load_test.export import as_csv, as_json, as_markdown, method_words
from server_manager.load_test.run import Failure, Level, LoadRun, LoadState, Metrics, Row
from server_manager.start_report import phase_line
from server_manager.units import gib

_CAME_UP = {"started": "ready after {:.1f} s", "woken": "awake after {:.1f} s"}


class Screen:
    """Lines that stay, and on a terminal one below them that changes."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._live = self._out.isatty()
        self._now = ""
        self._deaf = False

    def line(self, text: str) -> None:
        """One that stays."""
        clear = "\r\x1b[K" if self._live and self._now else ""
        self._now = ""
        self._write(f"{clear}{text}\n")

    def now(self, text: str, *, worth_a_line: bool = False) -> None:
        """What goes on; where nothing can be written over, it becomes a line if it is worth one."""
        if text == self._now:
            return
        if self._live:
            self._write(f"\r\x1b[K{text}")
            self._now = text
        elif worth_a_line:
            self.line(text)

    def _write(self, text: str) -> None:
        if self._deaf:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except BrokenPipeError:  # nobody reads any more (`… | head`): the files are wanted all the same
            self._deaf = True
            if self._out is sys.stdout:  # or Python would complain when it ends
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._out.fileno())
                os.close(nowhere)


class Progress:
    """Tells what is new in a run each time it is looked at."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._told: set[tuple[object, ...]] = set()

    def show(self, run: LoadRun, position: int | None) -> None:
        """``position``: how many others come first."""
        if position and self._once("waits", position):
            others = "1 other load test" if position == 1 else f"{position} other load tests"
            self._screen.line(f"waits for {others}")
        if run.state is not LoadState.QUEUED and self._once("begun"):
            self._screen.line(f"{len(run.rows)} {'models' if len(run.rows) > 1 else 'model'}: {method_words(run)}")
        for index, row in enumerate(run.rows):
            self._row(index, row)

    def _once(self, *what: object) -> bool:
        new = what not in self._told
        self._told.add(what)
        return new

    def _row(self, index: int, row: Row) -> None:
        if row.state is LoadState.QUEUED:
            return
        name = row.model
        came = row.serve_command or row.attached
        if row.state is LoadState.RUNNING and not came and row.progress is not None:
            code, facts = row.progress.code, row.progress.facts
            text = _doing(code, facts)
            self._screen.now(f"{name}: {text}", worth_a_line=self._once(index, code, facts.get("phase")))
        if came and row.was and self._once(index, "up"):
            self._screen.line(f"{name}: {_came_up(row)}")
        for position, level in enumerate(row.levels):
            self._level(index, position, row, level)
        if row.error is not None and self._once(index, "error"):
            self._screen.line(f"{name}: FAILED: {failure_words(row.error)}")
            if row.diagnosis is not None:
                self._screen.line(f"    {row.diagnosis.title}")

    def _level(self, index: int, position: int, row: Row, level: Level) -> None:
        what = f"{row.model} at {level_words(level)}"
        if level.state is LoadState.RUNNING and level.progress is not None:
            done = level.progress
            text = {"starting": "the generator starts", "warm-up": "warm-up"}.get(
                done.phase, f"{done.done}/{done.total} requests"
            )
            new = self._once(index, position, done.phase)
            self._screen.now(f"{what}: {text}", worth_a_line=new and done.phase == "running")
        if level.metrics is not None and self._once(index, position, "figures"):
            self._screen.line(f"{what}: {figures(level.metrics)}")
        for note in level.warnings:
            if self._once(index, position, note.text):
                self._screen.line(f"    {note.text}")


def _doing(code: str, facts: Mapping[str, object]) -> str:
    if code == "load_starting":
        return phase_line({"state": "starting", **facts, "detail": facts.get("detail") or ""})
    if code == "load_waiting" and isinstance(behind := facts.get("behind"), list | tuple) and behind:
        return f"waits for {', '.join(map(str, behind))}"
    return {"load_waking": "waking", "load_preparing": "preparing"}.get(code, "waits for its server")


def _came_up(row: Row) -> str:
    known = [
        _CAME_UP[row.was].format(row.load_s) if row.was in _CAME_UP and row.load_s is not None else "was up",
        f"{gib(row.gpu_bytes)} of GPU memory" if row.gpu_bytes else "",
        f"KV cache for {row.kv_cache_tokens:,} tokens" if row.kv_cache_tokens else "",
    ]
    return ", ".join(filter(None, known))


def level_words(level: Level) -> str:
    """``concurrency 8`` or ``2/s``."""
    return f"concurrency {level.label}" if level.concurrency is not None else level.label


def figures(metrics: Metrics) -> str:
    """The figures that matter most, on one line."""

    def ms(value: float | None, digits: int = 0) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    failed = f", {metrics.failed} FAILED" if metrics.failed else ""
    return (
        f"{metrics.output_throughput:.1f} tok/s, {metrics.request_throughput:.2f} requests/s, "
        f"TTFT {ms(metrics.p50_ttft_ms)} ms (p99 {ms(metrics.p99_ttft_ms)}), "
        f"TPOT {ms(metrics.p50_tpot_ms, 1)} ms (p99 {ms(metrics.p99_tpot_ms, 1)}){failed}"
    )


def failure_words(failure: Failure) -> str:
    return f"{failure.message} {failure.next_step}".strip()


def succeeded(run: LoadRun) -> bool:
    """Whether every model was measured, and answered at least one request."""
    return (
        run.state is LoadState.DONE
        and all(row.state is LoadState.DONE for row in run.rows)
        and all(any(level.metrics and level.metrics.completed for level in row.levels) for row in run.rows)
    )


def make_folder(folder: Path) -> None:
    """Before hours of measuring. Raises ``StateDirError`` where nothing can be written there."""
    probe = folder / ".vllm-deck-writes-here"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_files(run: LoadRun, folder: Path) -> list[Path]:
    """The run as files. Raises ``StateDirError``."""
    makers: dict[str, Callable[[], str | bytes]] = {
        "run.json": lambda: as_json(run),
        "run.csv": lambda: as_csv(run),
        "run.md": lambda: as_markdown(run),
        "run.png": lambda: draw_png(run),
        "run-dark.png": lambda: draw_png(run, dark=True),
    }
    written = []
    for name, make in makers.items():
        content = make()
        try:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise _unwritable(folder, error) from error
        written.append(folder / name)
    return written


def _unwritable(folder: Path, error: OSError) -> StateDirError:
    return StateDirError(
        f"{folder} cannot be written: {error.strerror or error}.", "Choose another folder with --out.", path=folder
    )
