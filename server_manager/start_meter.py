"""Follows one start: which phase it is in, since when, and how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from server_manager.download_watch import Download
from server_manager.start_estimate import TIMED, Basis, Expectation, fraction_done, remaining, share_of
from server_manager.start_phase import PhaseReached, StartPhase, StartProgress


@dataclass(frozen=True, slots=True)
class PhaseView:
    """One phase of a start. Seconds; unknown is ``None``."""

    phase: StartPhase
    elapsed_s: float | None
    """``None`` where it has not begun, or was passed over."""
    expected_s: float | None
    """``None`` where it is not expected, or nothing is known."""


@dataclass(frozen=True, slots=True)
class DownloadView:
    """The download of the weights."""

    bytes_there: int
    total_bytes: int | None
    bytes_per_s: float
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class StartProgressView:
    """How far a start is, for people. Seconds; unknown is ``None``."""

    elapsed_s: float
    """Since the process was created."""
    phase_elapsed_s: float
    fraction: float | None = None
    """Of the time, 0 to 1: never less than before, 1 only when it is ready; ``None`` without earlier starts."""
    eta_s: float | None = None
    """``None`` where it cannot be told: without earlier starts, or when a phase takes longer than it ever did."""
    overdue: bool = False
    """Whether the present phase takes longer than usual."""
    basis: Basis = Basis.NONE
    last_total_s: float | None = None
    """From the process to ready, of the last start with the same flags; to be compared with ``elapsed_s``."""
    download: DownloadView | None = None
    phases: tuple[PhaseView, ...] = ()


class StartMeter:
    """Made when the process is; then told the new lines of its log, time and again."""

    def __init__(
        self,
        expectation: Expectation | None = None,
        *,
        may_download: bool = False,
        known_from_start: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``known_from_start`` is false for an adopted server, whose earlier phases nobody has timed."""
        self._expected = expectation or Expectation()
        self._log = StartProgress(may_download=may_download)
        self._clock = clock
        self._known_from_start = known_from_start
        self._began = clock()
        self._entered: dict[StartPhase, float] = {StartPhase.IMPORT: self._began}
        self._download: Download | None = None
        self._fraction = 0.0
        self.compiled = False
        """Whether vLLM compiled anew, and did not find all in its cache."""

    @property
    def reached(self) -> PhaseReached:
        return self._log.reached

    @property
    def download(self) -> Download | None:
        """The download, while there is one."""
        return self._download

    @property
    def wants_download(self) -> bool:
        """Whether it makes sense to look for a download: not once weights are being read."""
        return self._log.before_weights

    def take(self, lines: Iterable[str], download: Download | None = None) -> None:
        """Takes the log's new lines, maybe none, and how far a download is."""
        lines = tuple(lines)
        self.compiled = self.compiled or any("Compiling a graph for " in line for line in lines)
        self._log.take(lines)
        grown = download and (self._download is None or download.bytes_there > self._download.bytes_there)
        if download and (grown or self.reached.phase is StartPhase.DOWNLOAD):
            self._log.downloading(str(download))
        self._download = download if self._log.before_weights else None
        self._entered.setdefault(self.reached.phase, self._clock())

    def first_sleep(self) -> None:
        """From now on it is put to sleep for the first time."""
        self._log.first_sleep()
        self._entered.setdefault(self.reached.phase, self._clock())

    def durations(self) -> Mapping[StartPhase, float]:
        """How long each phase has taken so far; empty where that is not known."""
        if not self._known_from_start:
            return {}
        times = [*self._entered.values(), self._clock()]
        return {phase: times[index + 1] - times[index] for index, phase in enumerate(self._entered)}

    def view(self) -> StartProgressView:
        """How far it is now."""
        now, phase = self._clock(), self.reached.phase
        in_phase, known = now - self._entered[phase], self._expected
        left = remaining(
            known.durations, phase, in_phase,
            share=share_of(phase, self.reached.detail), download=self._download,
        )  # fmt: skip
        useful = known.basis is not Basis.NONE and self._known_from_start
        if useful:
            self._fraction = fraction_done(now - self._began, left, in_phase, self._fraction)
        return self._view(
            now,
            fraction=round(self._fraction, 4) if useful else None,
            eta_s=_rounded(left.total_s) if useful else None,
            overdue=left.overdue and useful,
        )

    def finished(self) -> StartProgressView:
        """The same once it is ready: kept for "started in 41 s (last time 39 s)" and the time of each phase."""
        return self._view(self._clock(), fraction=1.0, eta_s=0.0, overdue=False)

    def _view(self, now: float, *, fraction: float | None, eta_s: float | None, overdue: bool) -> StartProgressView:
        taken = self.durations()
        found = self._download
        return StartProgressView(
            elapsed_s=round(now - self._began, 1),
            phase_elapsed_s=round(now - self._entered[self.reached.phase], 1),
            fraction=fraction,
            eta_s=eta_s,
            overdue=overdue,
            basis=self._expected.basis,
            last_total_s=_rounded(self._expected.last_total_s),
            download=None if found is None else DownloadView(
                found.bytes_there, found.total_bytes, round(found.bytes_per_s), _rounded(found.eta_s)
            ),
            phases=tuple(
                PhaseView(phase, _rounded(taken.get(phase)), _rounded(self._expected.durations.get(phase)))
                for phase in TIMED
            ),
        )  # fmt: skip


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
