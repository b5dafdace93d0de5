"""The sampling that a model's authors recommend with and without thinking. One row is one family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """Models whose ``generation_config.json`` tells only one of the two modes."""

    model_types: frozenset[str]
    """Of ``config.json``."""
    thinking: Mapping[str, float]
    plain: Mapping[str, float]


FAMILIES = (
    # https://huggingface.co/Qwen/Qwen3-8B, "Best Practices"
    Family(
        frozenset({"qwen3", "qwen3_moe"}),
        thinking={"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0},
        plain={"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.0},
    ),
)


def per_mode(
    model_type: str | None, has_switch: bool, own: Mapping[str, float], overrides: Mapping[str, float]
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Recommended sampling with and without thinking.

    By the family where the model has a switch; ``own`` is what its files say for both, ``overrides`` what the user's
    ``override-generation-config`` says, which wins.
    """
    family = next((row for row in FAMILIES if has_switch and model_type in row.model_types), None)
    if family is None:
        return {**own, **overrides}, {**own, **overrides}
    return {**own, **family.thinking, **overrides}, {**own, **family.plain, **overrides}
