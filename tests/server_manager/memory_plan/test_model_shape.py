"""What a model's files tell, and that what they do not tell stays unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plan_shapes import DEEPSEEK_V2_LITE, GEMMA3_4B, QWEN2_05B, QWEN2_7B, QWEN2_VL_7B, QWEN3_30B_A3B, RealModel

from server_manager.memory_plan.shape import ModelShape, find_shape, read_shape, shape_of


def test_index_tells_size_and_whether_all_is_there(tmp_path: Path) -> None:
    whole = read_shape(QWEN2_7B.put(tmp_path / "whole"))
    assert (whole.weights_bytes, whole.is_complete) == (15_231_233_024, True)
    part = read_shape(QWEN2_7B.put(tmp_path / "part", missing=1))
    assert (part.weights_bytes, part.is_complete) == (15_231_233_024, False)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"model.safetensors": 500, "pytorch_model.bin": 900, "optimizer.safetensors": 70}, 500),
        ({"pytorch_model-1.bin": 300, "pytorch_model-2.bin": 400, "training_args.bin": 5}, 700),
        ({"model-1.safetensors": 300, "consolidated.safetensors": 300}, 300),
        ({"consolidated.safetensors": 300}, 300),
        ({"model-q4.gguf": 250}, 250),
        ({"README.md": 10}, None),
    ],
)
def test_without_an_index_the_files_are_counted(tmp_path: Path, files: dict[str, int], expected: int | None) -> None:
    for name, size in files.items():
        (tmp_path / name).write_bytes(b"x" * size)
    found = read_shape(tmp_path)
    assert (found.weights_bytes, found.is_complete) == (expected, None if expected is None else True)


def test_links_of_a_hub_cache_count_as_what_they_point_to(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x" * 1234)
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blob")
    assert read_shape(tmp_path / "snapshot").weights_bytes == 1234


def test_a_gguf_file_is_its_own_size_and_nothing_else_is_known(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"x" * 77)
    assert find_shape(str(path)) == ModelShape(weights_bytes=77, is_complete=True)


def test_model_of_a_hub_is_found_in_its_cache(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--Qwen--Qwen2-0.5B-Instruct"
    QWEN2_05B.put(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    model = "Qwen/Qwen2-0.5B-Instruct"
    for found in (
        find_shape(model, env={"HF_HUB_CACHE": str(tmp_path)}),
        find_shape(model, download_dir=str(tmp_path)),
    ):
        assert (found.weights_bytes, found.num_hidden_layers) == (988_065_536, 24)


def test_model_that_is_not_here_is_unknown_unless_the_hub_is_asked(tmp_path: Path) -> None:
    env = {"HF_HUB_CACHE": str(tmp_path), "MODELSCOPE_CACHE": str(tmp_path)}
    assert find_shape("org/name", env=env) == ModelShape()
    asked = find_shape("org/name", env=env, hub_size=lambda model: 42 if model == "org/name" else None)
    assert asked == ModelShape(weights_bytes=42, is_complete=False)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (QWEN2_7B, {"head_dim": 128, "num_key_value_heads": 4, "max_position_embeddings": 32768, "sliding_layers": 0}),
        (QWEN3_30B_A3B, {"head_dim": 128, "experts_per_token": 8, "moe_intermediate_size": 768}),
        (DEEPSEEK_V2_LITE, {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "max_position_embeddings": 163840}),
        (
            GEMMA3_4B,
            {"num_hidden_layers": 34, "sliding_window": 1024, "sliding_layers": 29, "is_multimodal": True,
             "max_position_embeddings": 131072, "dtype": "bfloat16", "vocab_size": 262208},
        ),
        (QWEN2_VL_7B, {"num_hidden_layers": 28, "is_multimodal": True, "hidden_size": 3584}),
    ],
)  # fmt: skip
def test_real_configs(model: RealModel, expected: dict[str, Any]) -> None:
    found = shape_of(model.config)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"num_key_value_heads": None}, "num_key_value_heads", 14),
        ({"head_dim": None}, "head_dim", 64),
        ({"num_key_value_heads": [2, 4]}, "num_key_value_heads", None),
        ({"num_attention_heads": "14"}, "num_attention_heads", None),
        ({"num_hidden_layers": True}, "num_hidden_layers", None),
        ({"block_configs": []}, "num_hidden_layers", None),
        ({"torch_dtype": None, "dtype": "torch.float16"}, "dtype", "float16"),
        ({"torch_dtype": None}, "dtype", None),
        ({"quantization_config": {"quant_method": "awq"}}, "is_quantized", True),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, "max_position_embeddings", 131072),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "max_position_embeddings", 32768),
        ({"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32768}},
         "max_position_embeddings", 131072),
        ({"max_position_embeddings": None}, "max_position_embeddings", None),
        ({"use_sliding_window": True, "model_type": "mistral"}, "sliding_layers", 24),
        ({"use_sliding_window": True}, "sliding_layers", 0),
    ],
)  # fmt: skip
def test_what_a_config_leaves_open(changes: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(shape_of({**QWEN2_05B.config, **changes}), field) == expected


@pytest.mark.parametrize("content", ["", "[]", "{", '{"hidden_size": ', json.dumps({"text_config": "none"}), "\udcff"])
def test_what_cannot_be_read_is_unknown(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    (tmp_path / "model.safetensors.index.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert read_shape(tmp_path) == ModelShape()
