"""A diagnosis of what was refused before there was a process: the error says why, its facts what can be corrected."""

from __future__ import annotations

from collections.abc import Iterator

from server_manager.diagnosis.fixes import with_option, without_option
from server_manager.diagnosis.report import Diagnosis, Fix
from server_manager.errors import InsufficientMemory, ServerManagerError, SpecError
from server_manager.phrases import phrases_of

_SMALLEST_SHARE = 0.05


def diagnose_refusal(error: ServerManagerError) -> Diagnosis:
    """What a check before the start found."""
    return Diagnosis(
        cause=error.code,
        title=str(error.message),
        remedy=str(error.next_step),
        title_phrases=phrases_of(error.message),
        remedy_phrases=phrases_of(error.next_step),
        fixes=tuple(_fixes(error)),
    )


def _fixes(error: ServerManagerError) -> Iterator[Fix]:
    facts = error.facts
    if isinstance(error, InsufficientMemory):
        free, total = facts.get("free_bytes"), facts.get("total_bytes")
        if isinstance(free, int) and isinstance(total, int) and total:
            share = int(free / total * 100 - 0.5) / 100
            if share >= _SMALLEST_SHARE:
                yield with_option("gpu-memory-utilization", share)
    elif isinstance(error, SpecError):
        key = facts.get("key")
        if isinstance(key, str) and facts.get("removable"):
            yield without_option(key)
