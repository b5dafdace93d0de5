"""What a model's own files recommend and allow, without a request and without loading ``transformers``."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

from server_manager.downloads import cached_file
from server_manager.model_files import read_object
from server_manager.model_spec import ModelSpec

logger = logging.getLogger(__name__)

_FIELDS: Mapping[str, str] = {
    name: name
    for name in (
        "temperature",
        "top_p",
        "repetition_penalty",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
    )
} | {"max_new_tokens": "max_tokens"}
"""Fields that vLLM's ``ModelConfig.get_diff_sampling_param`` takes, and what a request calls them."""

_LARGEST_FILE = 4 * 2**20


def recommended_sampling(
    model: str, *, revision: str | None = None, env: Mapping[str, str] | None = None
) -> Mapping[str, float]:
    """The sampling parameters of a model's ``generation_config.json``, named as request fields.

    vLLM uses them for what a request leaves out, so they are what the page should show as the model's defaults. As in
    vLLM ``do_sample`` is not looked at: ``do_sample: false`` does not mean temperature 0. Empty where the model is
    not on the disk or the file says nothing; a file that cannot be read is logged and counts as empty.
    """
    return _fields(_read_json(model, "generation_config.json", revision, env))


def recommended_for(spec: ModelSpec) -> Mapping[str, float]:
    """The same for a catalogue entry: its ``generation-config`` and ``override-generation-config`` count."""
    source = str(spec.options.get("generation-config", "auto"))
    recommended: dict[str, float] = {}
    if source != "vllm":
        revision = spec.options.get("revision")
        recommended |= recommended_sampling(
            spec.model if source == "auto" else source,
            revision=str(revision) if revision is not None and source == "auto" else None,
            env=spec.env,
        )
    return recommended | overrides_of(spec)


def overrides_of(spec: ModelSpec) -> dict[str, float]:
    """The sampling that the entry's ``override-generation-config`` sets; empty where vLLM will refuse it."""
    overrides = spec.options.get("override-generation-config")
    if isinstance(overrides, str):
        try:
            overrides = json.loads(overrides)
        except ValueError:
            return {}
    return _fields(overrides) if isinstance(overrides, Mapping) else {}


def context_length(model: str, *, revision: str | None = None, env: Mapping[str, str] | None = None) -> int | None:
    """How many tokens the model was made for, from ``config.json``; ``None`` where unknown.

    ``max_position_embeddings`` at the top or, in multimodal models, in ``text_config``. Scaled positions (YaRN) and
    ``--max-model-len`` are not considered.
    """
    config = _read_json(model, "config.json", revision, env)
    nested = config.get("text_config")
    for section in (config, nested if isinstance(nested, Mapping) else {}):
        value = section.get("max_position_embeddings")
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def is_context_scaled(model: str, *, revision: str | None = None, env: Mapping[str, str] | None = None) -> bool:
    """Whether ``config.json`` scales positions (YaRN, …): vLLM then serves more than ``context_length`` tells."""
    config = _read_json(model, "config.json", revision, env)
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(scaling, Mapping):
        return False
    return bool(scaling.get("rope_type", scaling.get("type", "default")) != "default")


def _fields(config: Mapping[str, object]) -> dict[str, float]:
    return {
        request_field: value
        for name, request_field in _FIELDS.items()
        if isinstance(value := config.get(name), int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _read_json(model: str, filename: str, revision: str | None, env: Mapping[str, str] | None) -> Mapping[str, object]:
    """The object in the file; empty where there is no such file or no such object."""
    path: Path | None = None
    try:
        path = cached_file(model, filename, revision=revision, env=env)
        return {} if path is None else read_object(path, _LARGEST_FILE)
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s of %s is not used: %s", path or filename, model, error)
        return {}
