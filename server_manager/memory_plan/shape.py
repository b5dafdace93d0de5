"""What a model's own files tell of its size, without a request and without loading it.

Everything that the files do not say is ``None``: nothing here is guessed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from server_manager.downloads import cached_file
from server_manager.model_files import read_object
from server_manager.model_spec import is_local

log = logging.getLogger(__name__)

_LARGEST_CONFIG = 4 * 2**20
_LARGEST_INDEX = 64 * 2**20
_INDEX = "model.safetensors.index.json"
# In the order of vLLM's own look at a folder; files of one kind only are counted.
_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
_NO_WEIGHTS = ("optimizer", "scheduler", "training_args", "trainer_state", "consolidated")
_CONTEXT_KEYS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_sequence_length",
    "max_seq_length", "seq_len",
)  # fmt: skip
"""As in vLLM's ``derived_max_model_len_and_key`` (transformers_utils/model_arch_config_convertor.py)."""
_SCALED_ALREADY = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "default")
_WINDOW_EVERYWHERE = frozenset({"mistral"})
"""Model types whose ``sliding_window`` holds for every layer without a list that says so."""
_OTHER_LAYOUTS = ("block_configs", "hybrid_override_pattern", "compress_ratios")
"""Layers that differ from each other, or a cache of another kind: one formula does not tell what they hold."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions that decide how much memory a model needs. Names are those of ``config.json``."""

    weights_bytes: int | None = None
    """On disk, all of them."""
    is_complete: bool | None = None
    """Whether every file of the weights is on the disk; ``None`` where nothing says which there should be."""
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    """The longest context in tokens, scaled as vLLM scales it."""
    dtype: str | None = None
    """Of the weights, as the file says it: ``bfloat16``."""
    tie_word_embeddings: bool | None = None
    kv_lora_rank: int | None = None
    """Multi-head latent attention (DeepSeek): what is cached is this and ``qk_rope_head_dim``."""
    qk_rope_head_dim: int | None = None
    index_head_dim: int | None = None
    """Of the indexer of sparse attention (DeepSeek V3.2), which has a cache of its own."""
    sliding_window: int | None = None
    sliding_layers: int = 0
    """How many layers look back no further than the window."""
    experts_per_token: int | None = None
    moe_intermediate_size: int | None = None
    is_multimodal: bool = False
    is_quantized: bool = False

    @property
    def is_mla(self) -> bool:
        return self.kv_lora_rank is not None


def find_shape(
    model: str,
    *,
    revision: str | None = None,
    download_dir: str | None = None,
    env: Mapping[str, str] | None = None,
    hub_size: Callable[[str], int | None] | None = None,
) -> ModelShape:
    """The shape of a folder, of a GGUF file, or of a hub's model that is in its cache on this machine.

    ``env`` is the model's own environment, ``download_dir`` vLLM's ``--download-dir``. ``hub_size`` is asked for the
    size of the weights of a hub's model whose files are not here; nothing else is known of it then. Blocking.
    """
    if is_local(model) and Path(model).expanduser().is_file():
        return ModelShape(weights_bytes=_size([Path(model).expanduser()]), is_complete=True)
    variables = {**(env or {}), **({"HF_HUB_CACHE": download_dir} if download_dir else {})}
    config = cached_file(model, "config.json", revision=revision, env=variables)
    shape = read_shape(config.parent) if config else ModelShape()
    if shape.weights_bytes is None and hub_size is not None and not is_local(model):
        shape = replace(shape, weights_bytes=hub_size(model), is_complete=False)
    return shape


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in a folder. What cannot be read is logged, and unknown."""
    weights_bytes, is_complete = _weights(folder)
    config = _read_json(folder / "config.json", _LARGEST_CONFIG)
    return replace(shape_of(config), weights_bytes=weights_bytes, is_complete=is_complete)


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """What a ``config.json`` says; nothing of the size of the files."""
    text = _text_part(config)
    heads = _first(text, "num_attention_heads", "n_head")
    hidden = _first(text, "hidden_size", "n_embd")
    head_dim = _first(text, "head_dim", "hidden_size_per_head")
    if head_dim is None and heads and hidden:
        head_dim = hidden // heads
    layers = _first(text, "num_hidden_layers", "n_layer")
    if any(key in text for key in _OTHER_LAYOUTS):
        layers = None
    window, sliding_layers = _sliding(text, layers)
    return ModelShape(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=_kv_heads(text, heads),
        head_dim=head_dim,
        hidden_size=hidden,
        intermediate_size=_first(text, "intermediate_size", "n_inner", "ffn_dim"),
        vocab_size=_first(text, "vocab_size") or _first(config, "vocab_size"),
        max_position_embeddings=_context(config, text),
        dtype=_dtype(config, text),
        tie_word_embeddings=_flag(config, text, "tie_word_embeddings"),
        kv_lora_rank=_first(text, "kv_lora_rank"),
        qk_rope_head_dim=_first(text, "qk_rope_head_dim"),
        index_head_dim=_first(text, "index_head_dim"),
        sliding_window=window,
        sliding_layers=sliding_layers,
        experts_per_token=_first(text, "num_experts_per_tok", "top_k_experts", "moe_topk"),
        moe_intermediate_size=_first(text, "moe_intermediate_size"),
        is_multimodal=any(key in config for key in ("vision_config", "audio_config", "vision_tower", "thinker_config")),
        is_quantized=isinstance(config.get("quantization_config") or text.get("quantization_config"), Mapping),
    )


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model of a multimodal one; its fields may also stand at the top (Qwen2-VL)."""
    for name in ("text_config", "llm_config", "language_config"):
        part = config.get(name)
        if isinstance(part, Mapping) and part:
            return {**config, **part}
    thinker = config.get("thinker_config")
    return _text_part(thinker) if isinstance(thinker, Mapping) else config


def _kv_heads(text: Mapping[str, Any], heads: int | None) -> int | None:
    """As vLLM's ``get_total_num_kv_heads``: without a figure of its own, every attention head has one."""
    if text.get("multi_query") is True and text.get("new_decoder_architecture") is not True:
        return 1  # Falcon
    names = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num", "num_attention_groups")
    if any(isinstance(text.get(name), list) for name in names):
        return None  # differs from layer to layer
    return _first(text, *names) or heads


def _sliding(text: Mapping[str, Any], layers: int | None) -> tuple[int | None, int]:
    """The window and how many layers have it. Where the file leaves it open, none: that needs most memory."""
    window = _first(text, "sliding_window")
    if window is None or layers is None or text.get("use_sliding_window") is False:
        return None, 0
    kinds = text.get("layer_types")
    if isinstance(kinds, list):
        count = sum(kind == "sliding_attention" for kind in kinds)
        return (window, count) if count else (None, 0)
    every = _first(text, "sliding_window_pattern")
    if every and every > 1:  # Gemma 3: each sixth layer looks back all the way
        return window, layers - layers // every
    return (window, layers) if text.get("model_type") in _WINDOW_EVERYWHERE else (None, 0)


def _context(config: Mapping[str, Any], text: Mapping[str, Any]) -> int | None:
    """As vLLM's ``_get_and_verify_max_len`` (config/model.py), without the tokenizer's own limit."""
    found = [value for key in _CONTEXT_KEYS if (value := _first(text, key))]
    if not found:
        return None
    longest = min(found)
    rope = text.get("rope_scaling") or text.get("rope_parameters")
    if not isinstance(rope, Mapping) or "gemma3" in str(config.get("model_type")):
        return longest
    kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor")
    original = _first(rope, "original_max_position_embeddings") or _first(text, "original_max_position_embeddings")
    if kind == "longrope" and original:
        return original
    if not isinstance(factor, int | float) or isinstance(factor, bool) or kind is None:
        return longest
    if kind == "yarn" and original:  # some files state the longer context and some the shorter one
        return max(longest, int(original * factor))
    return longest if kind in _SCALED_ALREADY else int(longest * factor)


def _dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> str | None:
    for section in (text, config):
        for key in ("dtype", "torch_dtype"):
            if isinstance(value := section.get(key), str):
                return value.removeprefix("torch.")
    return None


def _flag(config: Mapping[str, Any], text: Mapping[str, Any], key: str) -> bool | None:
    value = text.get(key, config.get(key))
    return value if isinstance(value, bool) else None


def _first(section: Mapping[str, Any], *keys: str) -> int | None:
    """The first that is a whole number above nothing."""
    for key in keys:
        value = section.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _weights(folder: Path) -> tuple[int | None, bool | None]:
    """The size of the weights in bytes, and whether all of them are there."""
    index = _read_json(folder / _INDEX, _LARGEST_INDEX)
    names = index.get("weight_map")
    files = sorted({str(name) for name in names.values()}) if isinstance(names, Mapping) else []
    there = [folder / name for name in files if (folder / name).is_file()]
    metadata = index.get("metadata")
    total = _first(metadata, "total_size") if isinstance(metadata, Mapping) else None
    if files:
        complete = len(there) == len(files)
        return total or (_size(there) if complete else None), complete
    for pattern in _WEIGHT_FILES:
        found = [path for path in sorted(folder.glob(pattern)) if path.is_file()]
        # Some folders hold everything twice, the second time in the vendor's own format.
        own = [path for path in found if not path.name.startswith(_NO_WEIGHTS)]
        if found := own or [path for path in found if path.name.startswith("consolidated")]:
            return _size(found), True
    return None, None


def _size(files: Iterable[Path]) -> int | None:
    """Symbolic links count as what they point to: a hub's cache consists of them."""
    try:
        return sum(path.stat().st_size for path in files) or None
    except OSError as error:
        log.warning("the size of the weights is not known: %s", error)
        return None


def _read_json(path: Path, largest: int) -> Mapping[str, Any]:
    """The object in the file; empty where there is no such file or no such object."""
    try:
        return read_object(path, largest)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s is not used: %s", path, error)
        return {}
