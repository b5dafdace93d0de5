"""What an operator may set of switching, in a model's ``NAME.env`` or for all in ``defaults.env``."""

from __future__ import annotations

import logging

from server_manager.model_spec import ModelSpec

log = logging.getLogger(__name__)

SWITCHABLE, SLEEP_AFTER, STOP_AFTER = "DECK_SWITCHABLE", "DECK_SLEEP_AFTER", "DECK_STOP_AFTER"
_NO = frozenset({"0", "no", "false", "off"})


def is_switchable(spec: ModelSpec) -> bool:
    """Whether the model is to be served with sleep mode, and to sleep once right after its start; normally so.

    Not where its flags say otherwise, or where PyTorch's allocator has a setting that vLLM's sleep mode has no effect
    with (vllm#11743).
    """
    if spec.setting(SWITCHABLE).lower() in _NO or spec.options.get("enable-sleep-mode") is False:
        return False
    allocator = (spec.setting("PYTORCH_CUDA_ALLOC_CONF") + spec.setting("PYTORCH_ALLOC_CONF")).replace(" ", "")
    return "expandable_segments:True" not in allocator


def sleep_after_seconds(spec: ModelSpec) -> float | None:
    """How long nobody may use it until it is put to sleep; ``None``: it is not."""
    return _minutes(spec, SLEEP_AFTER)


def stop_after_seconds(spec: ModelSpec) -> float | None:
    """How long nobody may use it until it is stopped; ``None``: it is not."""
    return _minutes(spec, STOP_AFTER)


def _minutes(spec: ModelSpec, name: str) -> float | None:
    text = spec.setting(name)
    try:
        minutes = float(text) if text else 0.0
    except ValueError:
        log.warning("%s of %s is no number of minutes: %r", name, spec.name, text)
        return None
    return minutes * 60 if minutes > 0 else None
