"""Turns a GGUF file into the folder that vLLM serves: run in vLLM's own environment, which has transformers.

    python convert_gguf.py FILE.gguf OUT_DIR SAMPLING

vLLM 0.32 reads GGUF only with a plugin, so the weights are dequantized once, to bfloat16. ``SAMPLING`` is
JSON: what the model's ``generation_config.json`` is to recommend, since the file carries nothing of it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path


def convert(gguf: Path, out_dir: Path, sampling: dict[str, float]) -> None:
    """Writes ``config.json``, the weights, the tokenizer and ``generation_config.json`` into ``out_dir``."""
    # Not above: they take seconds, in which the app may already be killed.
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    path = out_dir / "generation_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | sampling, indent=2) + "\n", encoding="utf-8")
    for written in out_dir.iterdir():  # on the disk before the folder gets its name: a power cut leaves no half model
        with written.open("rb") as file:
            os.fsync(file.fileno())


def end_with_parent() -> None:
    """Has the kernel kill this process when the app that started it is gone (Linux's ``PR_SET_PDEATHSIG``)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    convert(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
