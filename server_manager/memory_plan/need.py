"""What a start needs on each of its GPUs: weights, KV cache, and all the rest.

The rest (``overhead``) is what a server's process holds beyond weights and cache: the CUDA context, NCCL's buffers,
activations at their peak, the sampler's logits, CUDA graphs, and what the allocator loses between its blocks. Until
this machine has measured it there is a formula for it. It errs on the safe side: 4.1 GiB for Qwen2-7B on an H100 where
3.61 were measured. A start that was measured replaces it, for the same model and flags as it was, for another model
of the same machine as a factor (see ``history``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from server_manager.memory_plan.chosen import AUTO_LENGTH, ChosenFlags
from server_manager.memory_plan.shape import ModelShape
from server_manager.memory_plan.sizes import (
    CPU_BLOCK_TOKENS,
    SAFE_BLOCK_TOKENS,
    context_tokens,
    kv_bytes_for_request,
    tensor_parallel_choices,
    weights_per_gpu,
)
from server_manager.memory_plan.world import Device

GIB = 1 << 30
MIB = 1 << 20
WISHED_REQUESTS = 4
"""Of the longest kind, that a server shall be able to hold at once where there is room for it."""
CONTEXT_BYTES = 576 * MIB
"""What is taken before vLLM looks at what is free; 0.52 GiB on an H100 (``Initial free memory`` of 79.18 GiB)."""
_NCCL_BYTES = 768 * MIB
"""More of it on each GPU of a group."""
_FIXED_BYTES = 256 * MIB
_GRAPHS_BYTES, _GRAPHS_PER_LAYER_BYTES = 256 * MIB, 20 * MIB
_MULTIMODAL_BYTES = 2 * GIB
"""Images of the largest size, which vLLM runs through the encoder when it profiles."""
_MORE_MODELS_BYTES = 2 * GIB
"""Adapters, or a draft model: their files are not looked at."""
_UNKNOWN_SHAPE_BYTES = 4 * GIB
_HOST_BYTES = 2432 * MIB
"""The three processes of a server on the CPU without weights and cache; 2.1 GiB were measured."""
_LEAST_RESIDUE_BYTES = 2 * GIB
"""What a sleeping server keeps of a GPU; 1.3 to 1.95 GiB were measured on an H100, for 0.5B to 7B."""


class NeedBasis(StrEnum):
    """What a figure rests on."""

    MEASURED = "measured"
    """An earlier start of this model with these flags on such a GPU."""
    COMPUTED = "computed"
    """The model's files, and formulas."""
    UNKNOWN = "unknown"
    """The files are not here, or are of a kind that the formulas do not cover."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What earlier starts on this machine tell of the next one, per GPU; ``None`` where they tell nothing."""

    weights_bytes: int | None = None
    overhead_bytes: int | None = None
    is_same: bool = False
    """Whether both come from the same model and flags."""
    overhead_factor: float | None = None
    """By how much the formula for the overhead was off with other models; 1 is exact, less means that it errs high."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What one start needs on each of its GPUs, split in one way. Bytes per GPU; unknown is ``None``."""

    gpu_count: int
    tensor_parallel_size: int
    weights_bytes: int | None
    kv_least_bytes: int | None
    """For one request of the longest kind, without which vLLM does not start."""
    kv_wished_bytes: int | None
    overhead_bytes: int
    context_bytes: int = CONTEXT_BYTES
    """The part of ``overhead_bytes`` that vLLM does not count against ``gpu-memory-utilization``."""
    basis: NeedBasis = NeedBasis.COMPUTED
    formula_overhead_bytes: int = 0
    """What the formula alone says of ``overhead_bytes``: kept with what is measured, to see how far it is off."""

    @property
    def least_bytes(self) -> int | None:
        """The smallest amount with which it starts."""
        return self._with(self.kv_least_bytes)

    @property
    def wished_bytes(self) -> int | None:
        return self._with(self.kv_wished_bytes)

    @property
    def sure_bytes(self) -> int | None:
        """With less than this it cannot start, however much the formula for the overhead errs."""
        if self.basis is NeedBasis.MEASURED or self.weights_bytes is None or self.kv_least_bytes is None:
            return self.least_bytes
        return self.weights_bytes + self.kv_least_bytes + min(self.overhead_bytes, self.context_bytes)

    def _with(self, kv_bytes: int | None) -> int | None:
        if self.weights_bytes is None or kv_bytes is None:
            return None
        return self.weights_bytes + kv_bytes + self.overhead_bytes


def memory_needs(
    shape: ModelShape,
    flags: ChosenFlags,
    devices: tuple[Device, ...],
    learn: Callable[[int], Learned] = lambda tensor_parallel_size: Learned(),
) -> tuple[MemoryNeed, ...]:
    """What it needs in each way of splitting it over these devices, fewest GPUs first.

    ``devices`` are those that may be used. One way only where the flags fix it, even if there are too few GPUs for it.
    ``learn`` tells what is known from earlier starts with so many ways of tensor parallelism.
    """
    per_way = flags.pipeline_parallel_size * flags.data_parallel_size
    if flags.tensor_parallel_size is not None:
        ways: tuple[int, ...] = (flags.tensor_parallel_size,)
    elif devices and devices[0].on_host:
        ways = (1,)
    else:
        ways = tensor_parallel_choices(shape, len(devices) // per_way) or (1,)
    return tuple(_need(shape, flags, devices, tp, tp * per_way, learn(tp)) for tp in ways)


def estimated_overhead(
    shape: ModelShape, flags: ChosenFlags, devices: tuple[Device, ...], *, tp: int = 1, gpu_count: int = 1
) -> int:
    """The formula, in bytes per GPU. Each term is of the size of the tensors that vLLM has at once at its peak."""
    if devices and devices[0].on_host:
        return _HOST_BYTES
    fixed = CONTEXT_BYTES + _FIXED_BYTES + (_NCCL_BYTES if gpu_count > 1 else 0)
    fixed += _MULTIMODAL_BYTES if shape.is_multimodal else 0
    fixed += _MORE_MODELS_BYTES if flags.has_more_models else 0
    hidden, layers = shape.hidden_size, shape.num_hidden_layers
    if hidden is None or layers is None:
        return fixed + _UNKNOWN_SHAPE_BYTES
    tokens, sequences = _batch(flags, devices)
    inner = shape.intermediate_size or 4 * hidden
    activations = tokens * (8 * hidden + 3 * inner // tp) * 2
    if shape.experts_per_token:
        expert = shape.moe_intermediate_size or inner
        activations += tokens * shape.experts_per_token * (hidden + 2 * expert // tp) * 2
    logits = sequences * (shape.vocab_size or 0) * 4 * 2
    graphs = 0 if flags.enforce_eager else _GRAPHS_BYTES + _GRAPHS_PER_LAYER_BYTES * layers
    return fixed + activations + logits + graphs


def estimated_residue(overhead_bytes: int) -> int:
    """What a server will keep of a GPU while it sleeps, where that was never measured."""
    return max(_LEAST_RESIDUE_BYTES, overhead_bytes // 2)


def _need(
    shape: ModelShape,
    flags: ChosenFlags,
    devices: tuple[Device, ...],
    tp: int,
    gpu_count: int,
    learned: Learned,
) -> MemoryNeed:
    pp, on_host = flags.pipeline_parallel_size, bool(devices) and devices[0].on_host
    computed = weights_per_gpu(shape, flags, tp=tp, pp=pp)
    weights = learned.weights_bytes or computed
    least, wished = _kv(shape, flags, devices, tp, pp, on_host=on_host)
    overhead = formula = estimated_overhead(shape, flags, devices, tp=tp, gpu_count=gpu_count)
    if learned.overhead_bytes is not None:
        overhead = learned.overhead_bytes
    elif learned.overhead_factor is not None:
        overhead = max(int(overhead * learned.overhead_factor), CONTEXT_BYTES)
    basis = NeedBasis.COMPUTED
    if weights is None or least is None:
        basis = NeedBasis.UNKNOWN
    elif learned.is_same and learned.weights_bytes is not None and learned.overhead_bytes is not None:
        basis = NeedBasis.MEASURED
    context = 0 if on_host else CONTEXT_BYTES + (_NCCL_BYTES if gpu_count > 1 else 0)
    return MemoryNeed(gpu_count, tp, weights, least, wished, overhead, min(context, overhead), basis, formula)


def _kv(
    shape: ModelShape, flags: ChosenFlags, devices: tuple[Device, ...], tp: int, pp: int, *, on_host: bool
) -> tuple[int | None, int | None]:
    """Bytes of the cache, at least and as wished; both are what the flags say where they say it."""
    if flags.kv_cache_memory_bytes is not None:
        return flags.kv_cache_memory_bytes, flags.kv_cache_memory_bytes
    tokens = context_tokens(shape, flags)
    if tokens is None:
        return None, None
    block = flags.block_size or (CPU_BLOCK_TOKENS if on_host else SAFE_BLOCK_TOKENS)
    batched, _ = _batch(flags, devices)

    def request(length: int) -> int | None:
        return kv_bytes_for_request(shape, flags, length, tp=tp, pp=pp, batched_tokens=batched, block_tokens=block)

    least = request(tokens)
    if least is None:
        return None, None
    wished = WISHED_REQUESTS * least
    if flags.max_model_len == AUTO_LENGTH and shape.max_position_embeddings:
        wished = max(wished, request(shape.max_position_embeddings) or 0)
    return least, wished


def _batch(flags: ChosenFlags, devices: tuple[Device, ...]) -> tuple[int, int]:
    """``max-num-batched-tokens`` and ``max-num-seqs`` as ``vllm serve`` sets them (engine/arg_utils.py).

    By the largest of the devices: vLLM asks the first.
    """
    largest = max((device.total_bytes for device in devices), default=0)
    is_a100 = any("a100" in (device.name or "").lower() for device in devices)
    tokens, sequences = 2048, 256
    if largest >= 160 * GIB:
        tokens, sequences = 16384, 1024
    elif largest >= 70 * GIB and not is_a100:
        tokens, sequences = 8192, 1024
    return flags.max_num_batched_tokens or tokens, flags.max_num_seqs or sequences
