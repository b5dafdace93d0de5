"""What an operator may set of switching, in a model's ``NAME.env`` or for all in ``defaults.env``."""

from __future__ import annotations

from server_manager.model_spec import ModelSpec

SWITCHABLE, SLEEP_AFTER, STOP_AFTER = "DECK_SWITCHABLE", "DECK_SLEEP_AFTER", "DECK_STOP_AFTER"
NO_WORDS = frozenset({"0", "no", "false", "off"})
"""What switches off, in small letters."""


def is_switchable(spec: ModelSpec) -> bool:
    """Whether the model is to be served with sleep mode, and to sleep once right after its start; normally so.

    Not where its flags say otherwise, or where PyTorch's allocator has a setting that vLLM's sleep mode has no effect
    with (vllm#11743).
    """
    if spec.setting(SWITCHABLE).lower() in NO_WORDS or spec.options.get("enable-sleep-mode") is False:
        return False
    allocator = (spec.setting("PYTORCH_CUDA_ALLOC_CONF") + spec.setting("PYTORCH_ALLOC_CONF")).replace(" ", "")
    return "expandable_segments:True" not in allocator


def sleep_after_seconds(spec: ModelSpec) -> float | None:
    """How long nobody may use it until it is put to sleep; ``None``: it is not."""
    return _minutes(spec, SLEEP_AFTER)


def stop_after_seconds(spec: ModelSpec) -> float | None:
    """How long nobody may use it until it is stopped; ``None``: it is not."""
    return _minutes(spec, STOP_AFTER)


def mistakes(spec: ModelSpec) -> tuple[str, ...]:
    """What is set and cannot be read, in words: it counts as not set."""
    texts = {name: spec.setting(name) for name in (SLEEP_AFTER, STOP_AFTER)}
    return tuple(
        f"{name} of {spec.name} is no number of minutes: {text!r}"
        for name, text in texts.items()
        if _number(text) is None
    )


def _minutes(spec: ModelSpec, name: str) -> float | None:
    minutes = _number(spec.setting(name)) or 0.0
    return minutes * 60 if minutes > 0 else None


def _number(text: str) -> float | None:
    """0 for an empty text; ``None`` for what is no number."""
    try:
        return float(text) if text else 0.0
    except ValueError:
        return None
