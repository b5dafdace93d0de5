"""The sampling that a model's authors recommend with and without thinking. The data is ``sampling_by_mode.yaml``."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_DATA = Path(__file__).with_name("sampling_by_mode.yaml")


@dataclass(frozen=True, slots=True)
class Family:
    """Models whose ``generation_config.json`` does not tell both modes."""

    source: str
    """Where its authors say so."""
    model_types: frozenset[str]
    """Of ``config.json``."""
    models: str
    """A regular expression for names and folders; empty for any."""
    thinking: Mapping[str, float]
    plain: Mapping[str, float]

    def fits(self, model_type: str | None, model: str) -> bool:
        return model_type in self.model_types and re.search(self.models, model, re.IGNORECASE) is not None


@functools.cache
def families() -> tuple[Family, ...]:
    """The table, read when first asked for."""
    rows: list[dict[str, Any]] = yaml.safe_load(_DATA.read_text(encoding="utf-8"))
    return tuple(Family(**{"models": ""} | row | {"model_types": frozenset(row["model_types"])}) for row in rows)


@dataclass(frozen=True, slots=True)
class ByMode:
    """Recommended fields of a request."""

    thinking: Mapping[str, float]
    plain: Mapping[str, float]
    auto: Mapping[str, float]
    """Where the template decides: what the model's own files say, and the rest as for the mode that it takes."""


def recommended_by_mode(
    family: Family | None, own: Mapping[str, float], overrides: Mapping[str, float], *, thinks_unasked: bool
) -> ByMode:
    """``own`` is what the model's files say for both modes, ``overrides`` what the user's
    ``override-generation-config`` says, which wins; ``family`` is ``None`` for a model without a switch."""
    if family is None:
        both = {**own, **overrides}
        return ByMode(both, both, both)
    usual = family.thinking if thinks_unasked else family.plain
    return ByMode(
        {**own, **family.thinking, **overrides}, {**own, **family.plain, **overrides}, {**usual, **own, **overrides}
    )


def family_of(model_type: str | None, model: str) -> Family | None:
    """The first that fits a ``model_type`` and the model's name or folder."""
    return next((family for family in families() if family.fits(model_type, model)), None)
