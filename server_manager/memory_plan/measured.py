"""What is measured of a server's memory, and how it is written into the history's file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from server_manager.memory_parts import MemoryParts
from server_manager.start_subject import StartSubject

MAX_RUNS = 5
_TRUSTED = 0.8


class Measure(StrEnum):
    """What is measured besides a start. Bytes of memory, or seconds."""

    RESIDUE_BYTES = "residue_bytes"
    """What it keeps of each GPU while it sleeps; of several the one with most."""
    HOST_BYTES = "host_bytes"
    """Of the machine's memory, that sleeping at level 1 takes."""
    FIRST_SLEEP_S = "first_sleep_s"
    """The first of a process is slow: it pins memory."""
    LATER_SLEEP_S = "later_sleep_s"
    WAKE_S = "wake_s"
    """From level 1."""
    RELOAD_S = "reload_s"
    """From level 2: with the weights read anew."""
    FIRST_TOKEN_S = "first_token_s"
    """After a wake, which is part of it."""
    COLD_START_S = "cold_start_s"
    STOP_S = "stop_s"
    """Until nothing of it was left."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a server holds of the GPU of which it holds most, in bytes."""

    weights_bytes: int
    kv_cache_bytes: int
    overhead_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.overhead_bytes


@dataclass(frozen=True, slots=True)
class Comparison:
    """One start: what was predicted and what came."""

    at: float
    """Unix time in seconds."""
    predicted: Figures | None
    """``None`` where the size of the model was not known."""
    actual: Figures
    formula_overhead_bytes: int = 0
    """What the formula alone would have said of the overhead."""
    budget_bytes: int = 0
    """What vLLM divided up by itself, and the context that comes on top; 0 with a cache of fixed size."""

    @property
    def overhead_bytes(self) -> int:
        """What to plan with next time: what it holds when it is ready need not be all that it takes at its peak.

        By itself vLLM leaves the peak out of the cache, so its budget tells it. With a cache of fixed size nobody has
        measured it, and the formula is trusted to lie no more than a fifth too high.
        """
        peak = int(self.formula_overhead_bytes * _TRUSTED)
        if self.budget_bytes:  # more than twice the formula is no peak: something else kept the cache small
            rest = self.budget_bytes - self.actual.weights_bytes - self.actual.kv_cache_bytes
            peak = min(rest, 2 * self.formula_overhead_bytes)
        return max(self.actual.overhead_bytes, peak)


@dataclass(frozen=True, slots=True)
class Entry:
    """All that is known of one subject; the newest last."""

    subject: StartSubject
    starts: tuple[Comparison, ...] = ()
    measures: Mapping[Measure, tuple[float, ...]] = field(default_factory=dict)


def actual_figures(parts: MemoryParts | None, held_bytes: Mapping[str, int]) -> Figures | None:
    """What a server that is ready holds: its parts by vLLM's log, all of it by the driver (bytes by device).

    ``None`` where one of them has not told. On the CPU ``held_bytes`` is the resident memory of its processes.
    """
    held = max(held_bytes.values(), default=0)
    if parts is None or not held:
        return None
    if parts.on_cpu:
        weights, cache = parts.weights_total_bytes, parts.kv_cache_total_bytes
    else:
        rank, _ = parts.rank_of(None)
        ranks = [*parts.ranks, *([rank] if rank else [])]
        weights = max((each.weights_bytes for each in ranks if each.weights_bytes is not None), default=None)
        cache = max((each.kv_cache_bytes for each in ranks if each.kv_cache_bytes is not None), default=None)
    if weights is None or cache is None or held < weights + cache:
        return None
    return Figures(weights, cache, held - weights - cache)


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """What is written into the file."""
    return {
        "model": entry.subject.model,
        "device": entry.subject.device,
        "features": dict(entry.subject.features),
        "starts": [
            {
                "at": round(run.at),
                "predicted": None if run.predicted is None else _figures_to_json(run.predicted),
                "actual": _figures_to_json(run.actual),
                "formula": run.formula_overhead_bytes,
                "budget": run.budget_bytes,
            }
            for run in entry.starts
        ],
        "measures": {
            measure.value: [round(value, 3) for value in values] for measure, values in entry.measures.items()
        },
    }


def entry_from_json(found: Any) -> Entry | None:
    """``None`` for what was written by another version, or edited by hand."""
    try:
        features = {str(name): str(value) for name, value in found["features"].items()}
        starts = tuple(
            Comparison(
                at=_number(run["at"]),
                predicted=None if run["predicted"] is None else _figures_from_json(run["predicted"]),
                actual=_figures_from_json(run["actual"]),
                formula_overhead_bytes=int(_number(run["formula"])),
                budget_bytes=int(_number(run["budget"])),
            )
            for run in found["starts"][-MAX_RUNS:]
        )
        known = {measure.value for measure in Measure}
        measures = {
            Measure(name): tuple(_number(value) for value in values[-MAX_RUNS:])
            for name, values in found["measures"].items()
            if name in known and values
        }
        return Entry(StartSubject(str(found["model"]), str(found["device"]), features), starts, measures)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _figures_to_json(figures: Figures) -> list[int]:
    return [figures.weights_bytes, figures.kv_cache_bytes, figures.overhead_bytes]


def _figures_from_json(found: Any) -> Figures:
    weights, cache, overhead = (int(_number(value)) for value in found)
    return Figures(weights, cache, overhead)


def _number(value: Any) -> float:
    """Raises ``ValueError`` for what is no amount."""
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(value)
    return number
