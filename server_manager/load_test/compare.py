"""Runs beside each other: their figures level by level, and by how many per cent they differ from the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import msgspec

from server_manager.errors import SpecError
from server_manager.load_test.run import LoadRun, Metrics, RunSummary, summary_of

MOST_RUNS = 8
_NOT_COMPARED = ("completed", "failed", "duration_s", "total_input_tokens", "total_output_tokens")
"""They follow from the settings."""
_MAY_DIFFER = ("preset", "seed", "concurrency", "request_rates", "sla")
"""Settings that change which levels there are, and not what is measured at one."""


@dataclass(frozen=True, slots=True)
class Column:
    """One model of one run."""

    run: str
    """Id of the run."""
    row: int
    name: str
    """Of the run."""
    model: str


@dataclass(frozen=True, slots=True)
class Value:
    """What a column has at a level; ``metrics`` is ``None`` where it has not been measured there."""

    run: str
    row: int
    metrics: Metrics | None


@dataclass(frozen=True, slots=True)
class ComparedLevel:
    """One level of all columns."""

    label: str
    values: tuple[Value, ...]
    """By column."""
    differences_percent: Mapping[str, tuple[float | None, ...]]
    """For each figure, by column: how much more than in the first column that has this level."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two or more runs."""

    runs: tuple[RunSummary, ...]
    columns: tuple[Column, ...]
    levels: tuple[ComparedLevel, ...]
    settings_differ: Mapping[str, tuple[object, ...]]
    """Settings that make figures hard to compare, by run: lengths, dataset, …; also ``gpus`` and ``vllm_version``."""


def compare(runs: Sequence[LoadRun]) -> Comparison:
    """Raises ``SpecError`` unless there are 2 to 8 runs."""
    if not 2 <= len(runs) <= MOST_RUNS:
        raise SpecError(f"2 to {MOST_RUNS} load tests can be compared.", "Choose so many.", key="ids")
    columns = [(run, index) for run in runs for index in range(len(run.rows))]
    labels = list(dict.fromkeys(level.label for run in runs for row in run.rows for level in row.levels))
    return Comparison(
        tuple(summary_of(run) for run in runs),
        tuple(Column(run.id, index, run.name, run.rows[index].model) for run, index in columns),
        tuple(_level(label, columns) for label in sorted(labels, key=level_order)),
        _differing(runs),
    )


def level_order(label: str) -> tuple[int, float]:
    """Concurrency before rates, each by its number, "inf" at the end."""
    return ("/s" in label or label == "inf", float(label.removesuffix("/s")))


def difference_percent(value: float | None, base: float | None) -> float | None:
    """By how much more; ``None`` where one is unknown or the base is 0."""
    return None if value is None or not base else round(100 * (value - base) / base, 2)


def _level(label: str, columns: Sequence[tuple[LoadRun, int]]) -> ComparedLevel:
    values = []
    for run, index in columns:
        metrics = next((level.metrics for level in run.rows[index].levels if level.label == label), None)
        values.append(Value(run.id, index, metrics if metrics and metrics.completed else None))
    base = next((value.metrics for value in values if value.metrics), None)
    differences = {
        name: tuple(
            difference_percent(getattr(value.metrics, name), getattr(base, name)) if value.metrics else None
            for value in values
        )
        for name in (field.name for field in fields(Metrics))
        if name not in _NOT_COMPARED
    }
    return ComparedLevel(label, tuple(values), differences)


def _differing(runs: Sequence[LoadRun]) -> dict[str, tuple[object, ...]]:
    facts = []
    for run in runs:
        known = msgspec.to_builtins(run.settings)
        known |= {"gpus": run.environment.gpus, "vllm_version": run.environment.vllm_version}
        facts.append({name: value for name, value in known.items() if name not in _MAY_DIFFER})
    by_name = {name: tuple(each[name] for each in facts) for name in facts[0]}
    return {name: values for name, values in by_name.items() if any(value != values[0] for value in values)}
