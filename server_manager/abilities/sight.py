"""Whether a model takes images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_SEES = frozenset({
    "vision_config", "vision_tower", "mm_vision_tower", "vision_encoder", "visual", "visual_tokenizer_config",
    "img_processor", "vq_config", "vit_config", "image_token_id", "image_token_index", "vision_start_token_id",
})  # fmt: skip
"""Keys of ``config.json`` (and Mistral's ``params.json``) that only models with eyes have."""
_ARCHITECTURES = frozenset({
    "BagelForConditionalGeneration", "ChameleonForConditionalGeneration", "DeepseekOCR2ForCausalLM",
    "DeepseekOCRForCausalLM", "DeepseekVLV2ForCausalLM", "FuyuForCausalLM", "GLM4VForCausalLM", "H2OVLChatModel",
    "HfMoondream", "InternVLChatModel", "MiniCPMO", "MiniCPMV", "Molmo2ForConditionalGeneration", "MolmoForCausalLM",
    "Moondream3ForCausalLM", "NVLM_D", "OpenCUAForConditionalGeneration", "Ovis", "Ovis2_5", "Ovis2_6ForCausalLM",
    "Ovis2_6_MoeForCausalLM", "Phi3VForCausalLM", "Phi4ForCausalLMV", "Phi4MMForCausalLM",
    "QwenVLForConditionalGeneration", "UnlimitedOCRForCausalLM",
})  # fmt: skip
"""Those of vLLM's registry (0.32) whose configurations may not show it by a key."""


def sees(config: Mapping[str, Any], options: Mapping[str, object]) -> bool:
    """By the model's configuration and its flags for vLLM (which can switch images off)."""
    if options.get("language-model-only") is True or _image_limit(options.get("limit-mm-per-prompt")) == 0:
        return False
    nested = [value for value in config.values() if isinstance(value, Mapping)]  # `thinker_config` of Qwen Omni
    if any(section.get(key) not in (None, {}, -1) for section in (config, *nested) for key in _SEES):
        return True
    architectures = config.get("architectures")
    return isinstance(architectures, list) and not _ARCHITECTURES.isdisjoint(map(str, architectures))


def _image_limit(value: object) -> int | None:
    """Of ``--limit-mm-per-prompt``: ``{"image": 0}``, also with ``{"count": 0}`` inside."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    limit = value.get("image") if isinstance(value, Mapping) else None
    if isinstance(limit, Mapping):
        limit = limit.get("count")
    return limit if isinstance(limit, int) else None
