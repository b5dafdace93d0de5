"""How long earlier starts took on this machine, phase by phase: what an ETA is made from.

One JSON file in the state folder. It only ever serves an estimate, so whatever is wrong with it (unreadable, a full
disk) costs the estimate and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server_manager.estimate_file import read_entries, write_entries
from server_manager.start_estimate import TIMED, Basis, Expectation
from server_manager.start_phase import StartPhase
from server_manager.start_subject import WEIGHTY, StartSubject

MAX_SUBJECTS = 200
MAX_RUNS = 5
_LAST_RUN_SHARE = 0.7
"""Of the newest start in an expectation; the rest is the mean of those before."""


@dataclass(frozen=True, slots=True)
class StartRecord:
    """One start that succeeded."""

    at: float
    """Unix time in seconds."""
    total_s: float
    """From the process to ready: what is done before it (a conversion, another server's stop) happens once."""
    compiled: bool
    """Whether vLLM compiled: with a warm cache it takes a fraction of the time."""
    phases: Mapping[StartPhase, float]
    """Seconds by phase; those that did not occur are missing."""


class StartHistory:
    """The starts of all models. Each call reads the file anew, and may take 20 ms: call it in a thread.

    Two starts that end in the same instant may cost one of them its record, and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def expect(self, subject: StartSubject) -> Expectation:
        """What the starts of this subject lead to expect, or those of the nearest one: same model, same device."""
        same_model = (subject.model, subject.device)
        known = [(each, runs) for each, runs in self._load() if (each.model, each.device) == same_model]
        for each, runs in known:
            if each.features == subject.features:
                # Started before, so what it compiled lies in the cache.
                return Expectation(_weighed(runs, compiled=False), Basis.SAME, runs[-1].total_s)
        if not known:
            return Expectation()
        # The later of two that are equally near.
        _, runs = min(reversed(known), key=lambda entry: _distance(entry[0].features, subject.features))
        return Expectation(_weighed(runs, compiled=True), Basis.SIMILAR)

    def nearest_totals(self, subjects: Mapping[str, StartSubject]) -> dict[str, float]:
        """For each key how long the last start of the nearest subject took, in seconds; none without such a start."""
        entries = self._load()
        found = {}
        for key, subject in subjects.items():
            same_model = (subject.model, subject.device)
            known = [(each, runs) for each, runs in reversed(entries) if (each.model, each.device) == same_model]
            if known:
                _, runs = min(known, key=lambda entry: _distance(entry[0].features, subject.features))
                found[key] = runs[-1].total_s
        return found

    def add(self, subject: StartSubject, run: StartRecord) -> None:
        """Notes a start that succeeded."""
        entries = self._load()
        runs = next((runs for each, runs in entries if each == subject), ())
        entries = [entry for entry in entries if entry[0] != subject]
        entries.append((subject, (*runs, run)[-MAX_RUNS:]))
        write_entries(self._path, "starts", [_to_json(each, runs) for each, runs in entries[-MAX_SUBJECTS:]])

    def _load(self) -> list[tuple[StartSubject, tuple[StartRecord, ...]]]:
        """The subjects by last use, the latest last; those that make no sense are left out."""
        return read_entries(self._path, "starts", _from_json)


def _weighed(runs: Sequence[StartRecord], *, compiled: bool) -> dict[StartPhase, float]:
    """The durations to expect, by the runs that did (or did not) compile, if there are any such."""
    alike = [run for run in runs if run.compiled is compiled] or list(runs)
    last, before = alike[-1], alike[:-1]

    def duration(phase: StartPhase) -> float:
        seconds = last.phases[phase]
        others = [run.phases[phase] for run in before if phase in run.phases]
        return _LAST_RUN_SHARE * seconds + (1 - _LAST_RUN_SHARE) * sum(others) / len(others) if others else seconds

    return {phase: duration(phase) for phase in TIMED if phase in last.phases and phase is not StartPhase.DOWNLOAD}


def _distance(one: Mapping[str, str], other: Mapping[str, str]) -> int:
    """How much two starts differ; flags that decide whether vLLM compiles count more than all others together."""
    return sum(WEIGHTY.get(name, 1) for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _to_json(subject: StartSubject, runs: Sequence[StartRecord]) -> dict[str, Any]:
    return {
        "model": subject.model,
        "device": subject.device,
        "features": dict(subject.features),
        "runs": [
            {
                "at": round(run.at),
                "total_s": round(run.total_s, 2),
                "compiled": run.compiled,
                "phases": {phase.value: round(seconds, 2) for phase, seconds in run.phases.items()},
            }
            for run in runs
        ],
    }


def _from_json(found: Any) -> tuple[StartSubject, tuple[StartRecord, ...]] | None:
    try:
        features = {str(name): str(value) for name, value in found["features"].items()}
        subject = StartSubject(str(found["model"]), str(found["device"]), features)
        runs = tuple(
            StartRecord(
                at=_seconds(run["at"]),
                total_s=_seconds(run["total_s"]),
                compiled=bool(run["compiled"]),
                phases={StartPhase(name): _seconds(value) for name, value in run["phases"].items()},
            )
            for run in found["runs"][-MAX_RUNS:]
        )
    except (ValueError, KeyError, TypeError, AttributeError):  # of another version, or edited by hand
        return None
    return (subject, runs) if runs else None


def _seconds(value: Any) -> float:
    """Raises ``ValueError`` for what is no length of time."""
    seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(value)
    return seconds
