"""Secrets of a model's file on their way to the form and back: shown as dots, and kept when the dots come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from server_manager import MASK, SECRET_FLAGS, SpecError, is_secret, without_passwords

_V = TypeVar("_V")


def masked_options(options: Mapping[str, object]) -> dict[str, object]:
    """Flags as they are shown: no secret, and no password in a URL."""
    return {key: MASK if key in SECRET_FLAGS else _masked(value) for key, value in options.items()}


def masked_env(env: Mapping[str, str]) -> dict[str, str]:
    """Variables as they are shown: no secret, and no password in a proxy's URL."""
    return {key: MASK if is_secret(key) else without_passwords(value) for key, value in env.items()}


def unmasked(given: Mapping[str, _V], kept: Mapping[str, _V], shown: Mapping[str, _V]) -> dict[str, _V]:
    """What a form means that was filled with ``shown``: what was not changed is as ``kept`` has it.

    A whole value of dots that stands for nothing here is left out. Raises ``SpecError`` for one with dots in it.
    """
    found: dict[str, _V] = {}
    for key, value in given.items():
        if key in kept and value == shown[key]:
            found[key] = kept[key]
        elif value != MASK:
            _refuse_mask(key, value)
            found[key] = value
    return found


def unmasked_url(given: str, kept: str) -> str:
    """The same for one URL."""
    if given and given.strip() == without_passwords(kept).rstrip("/"):
        return kept
    _refuse_mask("mirror", given)
    return given


def _masked(value: object) -> object:
    if isinstance(value, str):
        return without_passwords(value)
    return [_masked(item) for item in value] if isinstance(value, list) else value


def _refuse_mask(key: str, value: object) -> None:
    if MASK in str(value):
        raise SpecError(f"{key} still has dots in place of its password.", "Type the whole value anew.", key=key)
