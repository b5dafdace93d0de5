"""A fix applied to a model, and what that changes in its command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from server_manager.diagnosis.report import Fix
from server_manager.errors import SpecError
from server_manager.model_spec import ModelSpec
from server_manager.shell_line import shell_line

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Difference:
    """What a fix takes from a command and what it adds, as pieces of a shell line without secrets."""

    removed: tuple[str, ...]
    added: tuple[str, ...]


def apply_fix(spec: ModelSpec, fix: Fix, value: str | None = None) -> ModelSpec:
    """The model with the fix. ``value`` is what a person typed for ``fix.asks``. Raises ``SpecError`` without it."""
    options = _changed(spec.options, fix.options)
    env = _changed(spec.env, fix.env)
    if fix.asks:
        if not (value or "").strip():
            raise SpecError(f"The value of {fix.asks} is missing.", "Type it in, then press the button.", key=fix.asks)
        if "\0" in str(value) or "\n" in str(value).strip():
            raise SpecError(f"That cannot be the value of {fix.asks}.", "It is one line of text.", key=fix.asks)
        env = {**env, fix.asks: str(value).strip()}
        options = {key: old for key, old in options.items() if key.replace("-", "_").upper() != fix.asks}
    return replace(spec, options=options, env=env)


def difference(spec: ModelSpec, fix: Fix) -> Difference:
    """What the fix changes in the command of ``spec``; empty on both sides where it changes nothing."""
    before, after = _pieces(spec), _pieces(apply_fix(spec, fix, "…"))
    if fix.asks:  # a secret looks the same whatever it is
        before = [piece for piece in before if not piece.startswith(f"{fix.asks}=")]
    return Difference(
        tuple(piece for piece in before if piece not in after), tuple(piece for piece in after if piece not in before)
    )


def _changed(old: Mapping[str, _T], change: Mapping[str, _T | None]) -> dict[str, _T]:
    """``old`` with new values in the place of the old ones; what is ``None`` is left out."""
    merged = {**old, **change}
    return {key: value for key, value in merged.items() if value is not None}


def _pieces(spec: ModelSpec) -> list[str]:
    """Assignments, the program with its model, and each flag with its values."""
    assignments = [shell_line((), {name: value}).strip() for name, value in spec.env.items()]
    return [*assignments, *shell_line(("vllm", "serve", *spec.serve_args()), {}, multiline=True).split(" \\\n    ")]
