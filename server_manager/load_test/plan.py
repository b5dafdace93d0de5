"""Which levels a run will have."""

from __future__ import annotations

from collections.abc import Sequence

from server_manager.load_test.run import Level, Row
from server_manager.load_test.settings import ALL_AT_ONCE, LoadSettings


def planned_rows(models: Sequence[str], settings: LoadSettings, seed: int) -> tuple[Row, ...]:
    """A row for each model, with its levels; those of an SLA search are found on the way."""
    return tuple(Row(model, levels=_levels(settings, seed)) for model in models)


def _levels(settings: LoadSettings, seed: int) -> tuple[Level, ...]:
    if settings.sla is not None:
        return (concurrency_level(1, settings, seed),)
    if settings.concurrency:
        return tuple(
            concurrency_level(level, settings, seed + position) for position, level in enumerate(settings.concurrency)
        )
    return tuple(
        Level(
            "inf" if rate == ALL_AT_ONCE else f"{rate:g}/s",
            None,
            None if rate == ALL_AT_ONCE else float(rate),
            settings.prompts_for(None),
            seed + position,
        )
        for position, rate in enumerate(settings.request_rates)
    )


def concurrency_level(concurrency: int, settings: LoadSettings, seed: int) -> Level:
    """So many requests at a time."""
    return Level(str(concurrency), concurrency, None, settings.prompts_for(concurrency), seed)
