"""What a model's flags fix about its memory: the planner works with these and never changes one of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

VLLM_DEFAULT_SHARE = 0.92
"""vLLM's ``gpu-memory-utilization`` where nobody sets it (config/cache.py, 0.25 to 0.32)."""
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT]?)(?:i?[bB])?")
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""vLLM's own ``human_readable_int``: small letters count in thousands, capitals in 1024."""
AUTO_LENGTH = -1


@dataclass(frozen=True, slots=True)
class ChosenFlags:
    """The flags of ``vllm serve`` that bear on memory, as numbers.

    ``None`` where one is not given, or not in a way that can be read: then vLLM's parser says what is wrong with it.
    """

    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    max_model_len: int | None = None
    """In tokens; ``AUTO_LENGTH`` where vLLM shall take what fits."""
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    block_size: int | None = None
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    quantization: str | None = None
    enforce_eager: bool = False
    """Whether there are no CUDA graphs."""
    cpu_offload_bytes: int = 0
    """Of the weights, per GPU, that stay in the machine's memory."""
    has_more_models: bool = False
    """Whether adapters or a draft model are loaded besides."""
    one_kind_of_layer: bool = False
    """Whether layers with a sliding window are cached like all others (``--disable-hybrid-kv-cache-manager``)."""


def chosen_flags(options: Mapping[str, object]) -> ChosenFlags:
    """The flags of a spec or a plan. Never raises."""
    share = _share(options.get("gpu-memory-utilization", options.get("device-memory-utilization")))
    level = str(options.get("optimization-level", options.get("O", "")))
    length = options.get("max-model-len")
    return ChosenFlags(
        gpu_memory_utilization=share,
        kv_cache_memory_bytes=whole(options.get("kv-cache-memory-bytes")),
        tensor_parallel_size=whole(options.get("tensor-parallel-size")),
        pipeline_parallel_size=whole(options.get("pipeline-parallel-size")) or 1,
        data_parallel_size=whole(options.get("data-parallel-size")) or 1,
        max_model_len=AUTO_LENGTH if str(length) in ("auto", "-1") else whole(length),
        max_num_batched_tokens=whole(options.get("max-num-batched-tokens")),
        max_num_seqs=whole(options.get("max-num-seqs")),
        block_size=whole(options.get("block-size")),
        dtype=str(options.get("dtype", "auto")),
        kv_cache_dtype=str(options.get("kv-cache-dtype", "auto")),
        quantization=str(options["quantization"]) if options.get("quantization") else None,
        enforce_eager=options.get("enforce-eager") is True or level == "0",
        cpu_offload_bytes=_gib(options.get("cpu-offload-gb")),
        has_more_models=bool(options.get("speculative-config")) or options.get("enable-lora") is True,
        one_kind_of_layer=options.get("disable-hybrid-kv-cache-manager") is True,
    )


def whole(value: object) -> int | None:
    """A number above nothing as vLLM reads it ("8192", "32k", "512M", "1GiB"), or ``None``."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value if value > 0 else None
    if found := _NUMBER.fullmatch(str(value).strip()):
        return int(float(found[1]) * _FACTORS[found[2]]) or None
    return None


def _gib(value: object) -> int:
    try:
        return max(0, int(float(str(value)) * 2**30))
    except (ValueError, OverflowError):
        return 0


def _share(value: object) -> float | None:
    try:
        share = float(str(value))
    except ValueError:
        return None
    return share if 0 < share <= 1 else None
