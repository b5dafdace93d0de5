"""Writes a small Qwen2 with random weights: python make_qwen2.py TOKENIZER_DIR OUT [HIDDEN_SIZE LAYERS]

Without a size it is a very small one; 512 and 12 make 62 million parameters with SmolLM2's tokenizer.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen2Config


def main(tokenizer_dir: Path, out: Path, hidden_size: int = 64, layers: int = 2) -> None:
    vocabulary = json.loads((tokenizer_dir / "config.json").read_text())["vocab_size"]
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size if layers == 2 else 3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=max(2, hidden_size // 64),
        tie_word_embeddings=layers > 2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer_dir / name, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
