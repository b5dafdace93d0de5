"""Real models by their ``config.json`` and the size of their weights, without any weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server_manager.memory_plan.shape import ModelShape, read_shape

GIB = 1 << 30


@dataclass(frozen=True)
class RealModel:
    config: Mapping[str, Any]
    weights_bytes: int
    files: int = 2

    def put(self, folder: Path, *, missing: int = 0) -> Path:
        """A folder as a hub's client leaves it; the files of the weights are empty, their sizes stand in the index."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        names = [f"model-{number:05}-of-{self.files:05}.safetensors" for number in range(1, self.files + 1)]
        index = {
            "metadata": {"total_size": self.weights_bytes},
            "weight_map": {f"layer.{name}": name for name in names},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        for name in names[missing:]:
            (folder / name).touch()
        return folder

    def shape(self, folder: Path) -> ModelShape:
        return read_shape(self.put(folder))


def _qwen2(hidden: int, layers: int, heads: int, kv: int, inner: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": inner,
        "vocab_size": vocab,
        "max_position_embeddings": 32768,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    } | more


SMOL = RealModel(
    {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    },
    134_515_008 * 2,
    files=1,
)
QWEN2_05B = RealModel(_qwen2(896, 24, 14, 2, 4864, 151936), 494_032_768 * 2, files=1)
QWEN2_15B = RealModel(_qwen2(1536, 28, 12, 2, 8960, 151936), 1_543_714_304 * 2)
QWEN2_7B = RealModel(_qwen2(3584, 28, 28, 4, 18944, 152064, tie_word_embeddings=False), 7_615_616_512 * 2, files=4)
QWEN3_30B_A3B = RealModel(
    {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "torch_dtype": "bfloat16",
    },
    30_532_122_624 * 2,
    files=16,
)
DEEPSEEK_V2_LITE = RealModel(
    {
        "model_type": "deepseek_v2",
        "hidden_size": 2048,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_experts_per_tok": 6,
        "vocab_size": 102400,
        "max_position_embeddings": 163840,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
        "torch_dtype": "bfloat16",
    },
    15_706_484_224 * 2,
    files=4,
)
GEMMA3_4B = RealModel(
    {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 1024,
            "layer_types": ["full_attention" if n % 6 == 0 else "sliding_attention" for n in range(1, 35)],
            "max_position_embeddings": 131072,
            "vocab_size": 262208,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
        "torch_dtype": "bfloat16",
    },
    4_300_079_472 * 2,
)
QWEN2_VL_7B = RealModel(
    _qwen2(3584, 28, 28, 4, 18944, 152064, tie_word_embeddings=False)
    | {"model_type": "qwen2_vl", "vision_config": {"depth": 32, "embed_dim": 1280}},
    8_291_375_616 * 2,
    files=5,
)
