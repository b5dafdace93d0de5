"""The arithmetic of vLLM's memory: bytes of weights, of the KV cache, and over how many GPUs a model can be split.

Sources, vLLM 0.32: v1/kv_cache_interface.py (what a block of each kind of layer holds), v1/core/kv_cache_utils.py (what
one request needs), config/model.py (heads per GPU), distributed/utils.py ``get_pp_indices``. Where a model has several
kinds of layers the result is never less than what vLLM comes to.
"""

from __future__ import annotations

import math

from server_manager.memory_plan.chosen import AUTO_LENGTH, ChosenFlags
from server_manager.memory_plan.shape import ModelShape

GPU_BLOCK_TOKENS = 16
CPU_BLOCK_TOKENS = 128
SAFE_BLOCK_TOKENS = 256
"""Some attention backends ask for larger blocks than the default; with these a request never counts as too small."""
AUTO_LEAST_TOKENS = 2048
"""With ``max-model-len auto`` vLLM takes what fits; less than this is of no use to anybody."""
_DTYPE_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
_MLA_FP8_BYTES = 656
"""Of one token and layer with ``fp8_ds_mla`` (v1/kv_cache_interface.py ``MLAAttentionSpec``)."""
_INDEX_SCALE_BYTES = 4


def kv_bytes_per_token(shape: ModelShape, flags: ChosenFlags, *, tp: int = 1, pp: int = 1) -> int | None:
    """Bytes of KV cache that one token takes on the GPU with the most layers; all layers counted as full attention."""
    layer = _layer_bytes(shape, flags, tp)
    layers = _layers_per_gpu(shape, pp)
    return None if layer is None or layers is None else layer * layers


def kv_bytes_for_request(
    shape: ModelShape,
    flags: ChosenFlags,
    tokens: int,
    *,
    tp: int = 1,
    pp: int = 1,
    batched_tokens: int = 8192,
    block_tokens: int | None = None,
) -> int | None:
    """Bytes that vLLM wants for one request of ``tokens`` before it starts at all, and the one block it holds back.

    With a sliding window, layers of each kind are dealt out in groups of equal size, and each group takes blocks of
    its own (``_get_kv_cache_groups_uniform_page_size``); such a layer keeps the window and what is in flight, two
    batches with asynchronous scheduling.
    """
    layer = _layer_bytes(shape, flags, tp)
    layers = _layers_per_gpu(shape, pp)
    if layer is None or layers is None:
        return None
    block = block_tokens or flags.block_size or GPU_BLOCK_TOKENS
    full_blocks = math.ceil(tokens / block)
    sliding = min(layers, math.ceil(shape.sliding_layers / pp))
    if not sliding or shape.sliding_window is None or flags.one_kind_of_layer:
        return layer * layers * block * (full_blocks + 1)
    kept = min(shape.sliding_window - 1 + batched_tokens * max(2, pp), tokens)
    window_blocks = math.ceil(kept / block) + 1
    full = layers - sliding
    if not full:
        return layer * layers * block * (window_blocks + 1)
    group = max(full, sliding) if max(full, sliding) < 1.5 * min(full, sliding) else min(full, sliding)
    blocks = math.ceil(full / group) * full_blocks + math.ceil(sliding / group) * window_blocks + 1
    return layer * group * block * blocks


def kv_tokens(bytes_: int, per_token: int, *, block_tokens: int = GPU_BLOCK_TOKENS) -> int:
    """How many tokens a cache of so many bytes holds: whole blocks only."""
    return bytes_ // (per_token * block_tokens) * block_tokens


def context_tokens(shape: ModelShape, flags: ChosenFlags) -> int | None:
    """The longest request in tokens; with ``auto`` the shortest that is still of use."""
    if flags.max_model_len == AUTO_LENGTH:
        return min(AUTO_LEAST_TOKENS, shape.max_position_embeddings or AUTO_LEAST_TOKENS)
    return flags.max_model_len or shape.max_position_embeddings


def weights_per_gpu(shape: ModelShape, flags: ChosenFlags, *, tp: int = 1, pp: int = 1) -> int | None:
    """Bytes of weights on the GPU with most of them.

    Without quantization vLLM keeps them in the type that it computes in, whatever the file's. What quantizing while
    loading saves (``--quantization fp8`` for a model that is not) is not counted: it may hold both for a while.
    """
    if shape.weights_bytes is None:
        return None
    on_disk, in_use = _DTYPE_BYTES.get(shape.dtype or ""), _compute_bytes(shape, flags)
    total = shape.weights_bytes
    if on_disk and in_use and not shape.is_quantized:
        total = total * in_use // on_disk
    if pp == 1:
        return max(0, math.ceil(total / tp) - flags.cpu_offload_bytes)
    share = _embedding_share(shape, in_use, total)
    layers = shape.num_hidden_layers
    body = total - share * (1 if shape.tie_word_embeddings else 2)
    fullest = math.ceil(layers / pp) / layers if layers else 1 / pp
    return max(0, math.ceil((body * fullest + share) / tp) - flags.cpu_offload_bytes)


def tensor_parallel_choices(shape: ModelShape, device_count: int) -> tuple[int, ...]:
    """Over how many of ``device_count`` GPUs vLLM can split each layer, least first.

    It wants the attention heads divided evenly (config/model.py ``verify_with_parallel_config``), and the KV heads
    either divided or each repeated on as many GPUs (model code: ``assert tp_size % total_num_kv_heads == 0``). Where
    the heads are not known only 1 is offered.
    """
    heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
    if heads is None:
        return (1,) if device_count else ()

    def fits(size: int) -> bool:
        if heads % size:
            return False
        return shape.is_mla or kv_heads is None or kv_heads % size == 0 or size % kv_heads == 0

    return tuple(size for size in range(1, device_count + 1) if fits(size))


def compute_dtype(shape: ModelShape, flags: ChosenFlags) -> str | None:
    """What vLLM computes in: with ``auto`` the file's type, but never 32 bits (config/model.py)."""
    if flags.dtype != "auto":
        return flags.dtype
    return "bfloat16" if shape.dtype == "float32" else shape.dtype


def _compute_bytes(shape: ModelShape, flags: ChosenFlags) -> int | None:
    return _DTYPE_BYTES.get(compute_dtype(shape, flags) or "")


def _layer_bytes(shape: ModelShape, flags: ChosenFlags, tp: int) -> int | None:
    """Of one token in one layer on one GPU."""
    if flags.kv_cache_dtype == "fp8_ds_mla" and shape.is_mla:
        return _MLA_FP8_BYTES + _indexer_bytes(shape)
    element = _kv_element_bytes(shape, flags)
    if element is None:
        return None
    if shape.kv_lora_rank is not None:  # one vector for all heads, on every GPU
        if shape.qk_rope_head_dim is None:
            return None
        return (shape.kv_lora_rank + shape.qk_rope_head_dim) * element + _indexer_bytes(shape)
    if shape.num_key_value_heads is None or shape.head_dim is None:
        return None
    return 2 * max(1, math.ceil(shape.num_key_value_heads / tp)) * shape.head_dim * element


def _indexer_bytes(shape: ModelShape) -> int:
    return shape.index_head_dim + _INDEX_SCALE_BYTES if shape.index_head_dim else 0


def _kv_element_bytes(shape: ModelShape, flags: ChosenFlags) -> int | None:
    """Smaller types than 8 bits have scales beside them, each in its own way: 8 bits are taken for them all."""
    kind = flags.kv_cache_dtype
    if kind == "auto":
        return _compute_bytes(shape, flags)
    if kind in ("float16", "bfloat16"):
        return 2
    return 2 if kind.endswith("_per_token_head") else 1


def _layers_per_gpu(shape: ModelShape, pp: int) -> int | None:
    return None if shape.num_hidden_layers is None else math.ceil(shape.num_hidden_layers / pp)


def _embedding_share(shape: ModelShape, element: int | None, total: int) -> int:
    """Bytes of the first (or last) GPU's table of words, which is not divided over the pipeline."""
    if shape.vocab_size is None or shape.hidden_size is None or element is None:
        return 0
    return min(shape.vocab_size * shape.hidden_size * element, total // 3)
