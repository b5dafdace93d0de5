"""How long a start still takes, from how long each of its phases took before. Pure arithmetic, seconds throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from server_manager.download_watch import Download
from server_manager.start_phase import ORDER, StartPhase

TIMED = ORDER[ORDER.index(StartPhase.IMPORT) :]
"""The phases of vLLM itself, in order; what is before is ours and too different each time."""
_LONGER_FACTOR, _LONGER_S = 1.3, 2.0
"""A phase that takes this much longer than expected is said to."""
_LATE_SHARE = 0.05
_LEAST_LEFT_S = 0.5
MOST_FRACTION = 0.99


class Basis(StrEnum):
    """What an expectation rests on."""

    NONE = "none"
    """This model was never started on this machine."""
    SIMILAR = "similar"
    """An earlier start of the model with other flags, or another vLLM."""
    SAME = "same"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What earlier starts lead us to expect."""

    durations: Mapping[StartPhase, float] = field(default_factory=dict)
    """Of each phase; one that did not occur is missing."""
    basis: Basis = Basis.NONE
    last_total_s: float | None = None
    """From the process to ready, of the last start with the same flags."""


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of a start."""

    current_s: float | None
    """Of the phase that is on; ``None`` where that cannot be told."""
    later_s: float
    """Of the phases after it."""
    overdue: bool
    """Whether the phase takes longer than usual."""

    @property
    def total_s(self) -> float | None:
        return None if self.current_s is None else max(self.current_s + self.later_s, _LEAST_LEFT_S)


def remaining(
    expected: Mapping[StartPhase, float],
    phase: StartPhase,
    in_phase_s: float,
    *,
    share: float | None = None,
    download: Download | None = None,
) -> Remaining:
    """What is left when ``phase`` has been on for ``in_phase_s``.

    ``share`` is how much of it is done where the log counts (2 of 4 shards: 0.5); ``download`` replaces it while the
    weights are being downloaded.
    """
    later = sum(expected.get(each, 0.0) for each in TIMED[TIMED.index(phase) + 1 :])
    if phase is StartPhase.DOWNLOAD:  # how long one took before says nothing: the files were there after it
        return Remaining(download.eta_s if download else None, later, overdue=False)
    usual = expected.get(phase, 0.0)
    overdue = in_phase_s > usual * _LONGER_FACTOR + _LONGER_S
    # A phase that is due to end is taken to go on a little longer all the time: a figure that stands would be no truer.
    by_time = max(usual - in_phase_s, in_phase_s * _LATE_SHARE)
    if share is not None and share > 0:
        # The more of it is done the more its own pace counts, and the less what was usual.
        by_count = in_phase_s * (1 - share) / share
        return Remaining(by_count * share + by_time * (1 - share), later, overdue)
    return Remaining(None if overdue else by_time, later, overdue)


def fraction_done(elapsed_s: float, left: Remaining, in_phase_s: float, before: float) -> float:
    """How much of the start is done, 0 to 0.99, never less than ``before``.

    A phase of unknown rest counts as if a tenth of what it has taken were left: the bar creeps on and does not lie.
    """
    rest = left.total_s
    if rest is None:
        rest = left.later_s + max(in_phase_s * 0.1, 1.0)
    return max(before, min(elapsed_s / (elapsed_s + rest) if elapsed_s > 0 else 0.0, MOST_FRACTION))


def share_of(phase: StartPhase, detail: str) -> float | None:
    """What "2/4" shards say of the phase. CUDA graphs are counted twice over, from 0 each time: no share."""
    done, slash, total = detail.partition("/")
    if phase is not StartPhase.WEIGHTS or not slash or not done.isdecimal() or not total.isdecimal():
        return None
    # Once all are read nothing counts what is still to do: then time does again.
    return int(done) / int(total) if int(done) < int(total) else None
