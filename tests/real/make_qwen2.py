"""Writes a small Qwen2 with random weights: python make_qwen2.py TOKENIZER_DIR OUT [HIDDEN_SIZE LAYERS]

Without a size it is a very small one; 512 and 12 make 62 million parameters with SmolLM2's tokenizer. The files are
written by hand, since importing PyTorch and transformers takes longer than all the rest.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SPREAD = 0.02
"""Of the weights, as transformers initialises them."""


def main(tokenizer_dir: Path, out: Path, hidden_size: int = 64, layers: int = 2) -> None:
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "dtype": "bfloat16",
        "vocab_size": json.loads((tokenizer_dir / "config.json").read_text())["vocab_size"],
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size if layers == 2 else 3 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": max(2, hidden_size // 64),
        "num_key_value_heads": 2,
        "tie_word_embeddings": layers > 2,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(config))
    (out / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer_dir / name, out)
    save(out / "model.safetensors", dict(shapes(config)))


def shapes(config: dict[str, object]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of every tensor of the model, by its name."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    vocabulary, hidden, inner, heads, kv_heads = (int(str(config[name])) for name in names)
    kv_size = hidden // heads * kv_heads
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(int(str(config["num_hidden_layers"]))):
        of_layer = f"model.layers.{layer}"
        for name, size in (("q", hidden), ("k", kv_size), ("v", kv_size)):
            yield f"{of_layer}.self_attn.{name}_proj.weight", (size, hidden)
            yield f"{of_layer}.self_attn.{name}_proj.bias", (size,)
        yield f"{of_layer}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{of_layer}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{of_layer}.mlp.up_proj.weight", (inner, hidden)
        yield f"{of_layer}.mlp.down_proj.weight", (hidden, inner)
        yield f"{of_layer}.input_layernorm.weight", (hidden,)
        yield f"{of_layer}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocabulary, hidden)


def save(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file: the header's length in 8 bytes, the header, and the tensors one after the other."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    chance = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, shape in tensors.items():
            file.write(bfloat16(weights(name, shape, chance)).tobytes())


def weights(name: str, shape: tuple[int, ...], chance: np.random.Generator) -> NDArray[np.float32]:
    if name.endswith("norm.weight"):
        return np.ones(shape, np.float32)
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    return chance.standard_normal(shape, np.float32) * np.float32(SPREAD)


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of each, which is what bfloat16 is."""
    return (values.view(np.uint32) >> 16).astype("<u2")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
