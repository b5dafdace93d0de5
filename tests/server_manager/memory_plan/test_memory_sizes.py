"""The arithmetic, against figures that vLLM itself wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from plan_shapes import (
    DEEPSEEK_V2_LITE,
    GEMMA3_4B,
    GIB,
    QWEN2_05B,
    QWEN2_7B,
    QWEN2_15B,
    QWEN2_VL_7B,
    QWEN3_30B_A3B,
    SMOL,
    RealModel,
)

from server_manager.memory_parts import MemoryReader
from server_manager.memory_plan.chosen import AUTO_LENGTH, ChosenFlags, chosen_flags
from server_manager.memory_plan.shape import ModelShape, shape_of
from server_manager.memory_plan.sizes import (
    context_tokens,
    kv_bytes_for_request,
    kv_bytes_per_token,
    kv_tokens,
    tensor_parallel_choices,
    weights_per_gpu,
)
from server_manager.memory_plan.spec_shape import split_choices
from server_manager.model_spec import ModelSpec

LOGS = Path(__file__).parents[2] / "vllm_logs"
NO_FLAGS = ChosenFlags()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (SMOL, 23_040),
        (QWEN2_05B, 12_288),
        (QWEN2_7B, 57_344),
        (QWEN3_30B_A3B, 98_304),
        (DEEPSEEK_V2_LITE, 31_104),
        (GEMMA3_4B, 139_264),
        (QWEN2_VL_7B, 57_344),
    ],
)
def test_kv_bytes_of_a_token(model: RealModel, expected: int) -> None:
    assert kv_bytes_per_token(shape_of(model.config), NO_FLAGS) == expected


def test_512_mib_hold_what_vllm_says() -> None:
    """`CPU KV cache size: 23,296 tokens`, with blocks of 128."""
    assert kv_tokens(512 << 20, 23_040, block_tokens=128) == 23_296


def test_20_mib_hold_what_vllm_estimates() -> None:
    """`the estimated maximum model length is 1696` (err_gpu_kv_small.log)."""
    assert kv_tokens(20_971_520, 12_288) == 1696


@pytest.mark.parametrize(
    ("log", "model", "tokens", "block"),
    [("err_gpu_kv_small.log", QWEN2_05B, 32768, 16), ("err_kv_too_small.log", SMOL, 2048, 128)],
)
def test_one_request_needs_what_vllm_says(log: str, model: RealModel, tokens: int, block: int) -> None:
    """`(0.38 GiB KV cache is needed`: what we ask for has the one block more that vLLM holds back."""
    shape = shape_of(model.config)
    needed = kv_bytes_for_request(shape, NO_FLAGS, tokens, block_tokens=block)
    held_back = block * (kv_bytes_per_token(shape, NO_FLAGS) or 0)
    assert needed is not None
    assert f"({round((needed - held_back) / GIB, 2)} GiB KV cache is needed" in (LOGS / log).read_text()


def test_cache_of_a_real_start_holds_the_tokens_of_the_formula() -> None:
    reader = MemoryReader()
    reader.take((LOGS / "ok_gpu_cold_0.25.1.log").read_text().splitlines())
    assert reader.parts is not None
    assert reader.parts.kv_cache_tokens is not None
    assert reader.parts.ranks[0].kv_cache_bytes == pytest.approx(reader.parts.kv_cache_tokens * 12_288, rel=0.001)


@pytest.mark.parametrize(
    ("model", "gib_measured"),
    [(QWEN2_05B, 0.93), (QWEN2_15B, 2.98), (QWEN2_7B, 14.29)],
)
def test_weights_are_near_what_vllm_loaded(tmp_path: Path, model: RealModel, gib_measured: float) -> None:
    """`Model loading took 14.29 GiB`, on an H100; vLLM adds tables of positions and its own buffers."""
    found = weights_per_gpu(model.shape(tmp_path), NO_FLAGS)
    assert found is not None
    assert found / GIB == pytest.approx(gib_measured, rel=0.04)


@pytest.mark.parametrize(
    ("full", "sliding", "expected"),
    [(5, 29, 4_825_743_360), (12, 12, 7_299_661_824), (12, 13, 7_907_966_976), (10, 16, 6_796_738_560)],
)
def test_layers_with_a_window_are_grouped_as_in_vllm(full: int, sliding: int, expected: int) -> None:
    """Bytes that vLLM 0.32's own functions gave for 131,072 tokens, a window of 1024 and 8192 tokens a batch."""
    shape = ModelShape(
        num_hidden_layers=full + sliding,
        num_key_value_heads=4,
        head_dim=256,
        dtype="bfloat16",
        sliding_window=1024,
        sliding_layers=sliding,
    )
    assert kv_bytes_for_request(shape, NO_FLAGS, 131_072, batched_tokens=8192) == expected
    everything = kv_bytes_for_request(shape, ChosenFlags(one_kind_of_layer=True), 131_072)
    assert everything == kv_bytes_per_token(shape, NO_FLAGS) * (131_072 + 16)  # type: ignore[operator]


def test_split_over_gpus_each_has_at_least_one_kv_head() -> None:
    shape = shape_of(QWEN2_7B.config)
    assert [kv_bytes_per_token(shape, NO_FLAGS, tp=tp) for tp in (1, 2, 4, 7)] == [57_344, 28_672, 14_336, 14_336]
    assert kv_bytes_per_token(shape, NO_FLAGS, pp=2) == 28_672
    mla = shape_of(DEEPSEEK_V2_LITE.config)
    assert kv_bytes_per_token(mla, NO_FLAGS, tp=4) == 31_104, "latent vectors are on every GPU"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kv-cache-dtype": "fp8"}, 28_672),
        ({"kv-cache-dtype": "auto", "dtype": "float32"}, 114_688),
        ({"dtype": "half"}, 57_344),
    ],
)
def test_type_of_the_cache(options: dict[str, object], expected: int) -> None:
    assert kv_bytes_per_token(shape_of(QWEN2_7B.config), chosen_flags(options)) == expected


def test_weights_are_kept_in_the_type_that_is_computed_in() -> None:
    shape = ModelShape(weights_bytes=4000, dtype="float32", num_hidden_layers=4)
    assert weights_per_gpu(shape, NO_FLAGS) == 2000
    assert weights_per_gpu(shape, chosen_flags({"dtype": "float32"})) == 4000
    quantized = ModelShape(weights_bytes=4000, dtype="float32", is_quantized=True)
    assert weights_per_gpu(quantized, NO_FLAGS) == 4000


def test_weights_that_stay_in_the_machines_memory_do_not_count() -> None:
    shape = ModelShape(weights_bytes=5 << 30)
    assert weights_per_gpu(shape, chosen_flags({"cpu-offload-gb": 2})) == 3 << 30
    assert weights_per_gpu(shape, chosen_flags({"cpu-offload-gb": "many"})) == 5 << 30


def test_pipeline_has_the_table_of_words_on_its_ends(tmp_path: Path) -> None:
    shape = QWEN2_7B.shape(tmp_path)
    total, table = shape.weights_bytes, 152064 * 3584 * 2
    assert total is not None
    assert weights_per_gpu(shape, NO_FLAGS, pp=2) == (total - 2 * table) // 2 + table
    uneven = weights_per_gpu(shape, NO_FLAGS, pp=3)
    assert uneven is not None
    assert uneven > total / 3, "28 layers are 10, 9 and 9"


@pytest.mark.parametrize(
    ("model", "devices", "expected"),
    [
        (QWEN2_05B, 8, (1, 2)),  # 14 heads, 2 KV heads: 7 is no multiple of 2
        (QWEN2_7B, 8, (1, 2, 4)),
        (QWEN3_30B_A3B, 16, (1, 2, 4, 8, 16)),
        (DEEPSEEK_V2_LITE, 4, (1, 2, 4)),
        (SMOL, 4, (1, 3)),
        (SMOL, 1, (1,)),
        (SMOL, 0, ()),
    ],
)
def test_ways_of_splitting(model: RealModel, devices: int, expected: tuple[int, ...]) -> None:
    assert tensor_parallel_choices(shape_of(model.config), devices) == expected


def test_unknown_stays_unknown() -> None:
    nothing = ModelShape()
    assert kv_bytes_per_token(nothing, NO_FLAGS) is None
    assert kv_bytes_for_request(nothing, NO_FLAGS, 100) is None
    assert weights_per_gpu(nothing, NO_FLAGS) is None
    assert context_tokens(nothing, NO_FLAGS) is None
    assert tensor_parallel_choices(nothing, 8) == (1,)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4096, 4096), ("4096", 4096), ("32k", 32_000), ("32K", 32_768), ("auto", AUTO_LENGTH), (-1, AUTO_LENGTH),
     ("nonsense", None), (True, None), (None, None), (0, None)],
)  # fmt: skip
def test_lengths_as_vllm_reads_them(value: object, expected: int | None) -> None:
    assert chosen_flags({"max-model-len": value}).max_model_len == expected


@pytest.mark.parametrize(
    ("options", "field", "expected"),
    [
        ({"kv-cache-memory-bytes": "512M"}, "kv_cache_memory_bytes", 512 << 20),
        ({"kv-cache-memory-bytes": "1.5G"}, "kv_cache_memory_bytes", 3 << 29),
        ({"device-memory-utilization": 0.3}, "gpu_memory_utilization", 0.3),
        ({"gpu-memory-utilization": "0.5"}, "gpu_memory_utilization", 0.5),
        ({"gpu-memory-utilization": 1.5}, "gpu_memory_utilization", None),
        ({"gpu-memory-utilization": "high"}, "gpu_memory_utilization", None),
        ({"O": 0}, "enforce_eager", True),
        ({"tensor-parallel-size": "two"}, "tensor_parallel_size", None),
    ],
)
def test_flags_as_numbers(options: dict[str, object], field: str, expected: object) -> None:
    assert getattr(chosen_flags(options), field) == expected


def test_splits_that_are_offered_are_those_of_the_models_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 896}')
    assert split_choices(ModelSpec("m", str(tmp_path)), 8) == (1, 2)
    assert split_choices(ModelSpec("m", str(tmp_path / "none")), 8) == ()
