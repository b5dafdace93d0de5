"""The corrections that rules offer. Each is computed from the log's numbers, or not offered."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping

from server_manager import flags
from server_manager.diagnosis.report import Fix
from server_manager.diagnosis.rule import Clues, Offer

DEFAULT_UTILIZATION = 0.92
"""vLLM's own ``gpu-memory-utilization``, 0.25 to 0.32."""
_SMALLEST_LENGTH = 16
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
MIRROR = "https://hf-mirror.com"
HUB = "https://huggingface.co"

# Plain ones


def with_option(key: str, value: object) -> Fix:
    """Sets one flag."""
    shown = f"--{key}" if value is True else f"--no-{key}" if value is False else f"--{key} {value}"
    return Fix(f"{key}={value}", f"Start with {shown}", {key: value}, words="with", facts={"change": shown})


def without_option(key: str) -> Fix:
    """Removes one flag."""
    return Fix(f"no {key}", f"Start without --{key}", {key: None}, words="without", facts={"change": f"--{key}"})


def with_env(name: str, value: str) -> Fix:
    """Sets one variable of the environment."""
    shown = f"{name}={value}"
    return Fix(shown, f"Start with {shown}", env={name: value}, words="with", facts={"change": shown})


def ask_env(name: str) -> Fix:
    """Sets one variable of the environment to what a person types."""
    return Fix(f"ask {name}", f"Start with your {name}", asks=name, words="ask", facts={"change": name})


def trust_remote_code(clues: Clues) -> Iterable[Fix]:
    """Lets the model's own code run; the label warns of it."""
    if clues.options.get("trust-remote-code") is True:
        return
    yield Fix(
        "trust-remote-code",
        "Start with --trust-remote-code (runs Python code from the model's repository on this machine)",
        {"trust-remote-code": True},
        words="trust",
        facts={"change": "--trust-remote-code"},
    )


def removing(*keys: str) -> Offer:
    """Offers to leave out those of the flags that are set."""
    return lambda clues: [without_option(key) for key in keys if clues.options.get(key) not in (None, False)]


def setting(key: str, value: object) -> Offer:
    """Offers a flag with a fixed value, unless it has that already."""
    return lambda clues: [] if clues.options.get(key) == value else [with_option(key, value)]


def setting_env(name: str, value: str) -> Offer:
    """The same for a variable."""
    return lambda clues: [] if clues.env.get(name) == value else [with_env(name, value)]


def both(*offers: Offer) -> Offer:
    """All of several offers, in this order."""
    return lambda clues: [fix for offer in offers for fix in offer(clues)]


# Memory


def round_length(tokens: float) -> int:
    """A context length not above ``tokens`` that is a multiple of a block and easy to read."""
    step = 1024 if tokens >= 8192 else 128 if tokens >= 1024 else 16
    return int(tokens) // step * step


def shorter_context(clues: Clues) -> Iterable[Fix]:
    """The estimate of vLLM as ``max-model-len``, and ``auto``, which fits it at the start."""
    estimate = clues.number("estimate")
    if estimate and (length := round_length(estimate)) >= _SMALLEST_LENGTH:
        yield with_option("max-model-len", length)
    yield with_option("max-model-len", "auto")


def derived_context(clues: Clues) -> Iterable[Fix]:
    """The model's own context length, and leaving the flag out."""
    if (derived := clues.number("derived")) and derived >= _SMALLEST_LENGTH:
        yield with_option("max-model-len", int(derived))
    if "max-model-len" in clues.options:
        yield without_option("max-model-len")


def utilization_that_fits(clues: Clues) -> Iterable[Fix]:
    """The largest share of the device that is free now, rounded down to a hundredth."""
    free, total = clues.number("free"), clues.number("total")
    if free and total:
        share = int(free / total * 100 - 0.5) / 100
        if share >= 0.05:
            yield with_option("gpu-memory-utilization", share)


def utilization_back_to_default(clues: Clues) -> Iterable[Fix]:
    """vLLM's default share, where less was asked for."""
    try:
        share = float(str(clues.options.get("gpu-memory-utilization", DEFAULT_UTILIZATION)))
    except ValueError:
        return
    if share < DEFAULT_UTILIZATION - 0.015:
        yield without_option("gpu-memory-utilization")


def fixed_cpu_cache(clues: Clues) -> Iterable[Fix]:
    """On a CPU: a cache of a fixed size, with which vLLM skips its check of the free memory."""
    yield Fix(
        "kv-cache-memory-bytes=512M",
        "Start with --kv-cache-memory-bytes 512M",
        {"kv-cache-memory-bytes": "512M", "gpu-memory-utilization": None},
        words="with",
        facts={"change": "--kv-cache-memory-bytes 512M"},
    )


def smaller_cpu_cache(clues: Clues) -> Iterable[Fix]:
    """On a CPU: a cache of half of the memory that is free, in GiB if that is one at least."""
    free = clues.number("free")
    if free and free >= 2:
        yield with_option("kv-cache-memory-bytes", f"{int(free / 2)}G")
    else:
        yield with_option("kv-cache-memory-bytes", "512M")


def fewer_sequences(clues: Clues) -> Iterable[Fix]:
    """Half of the sequences that it tried at once."""
    if (tried := clues.number("sequences")) and tried >= 2:
        yield with_option("max-num-seqs", int(tried) // 2)


def sequences_at_most(clues: Clues) -> Iterable[Fix]:
    """``max-num-seqs`` at the limit that the message names."""
    if (limit := clues.number("limit")) and limit >= 1:
        yield with_option("max-num-seqs", int(limit))


def eager(clues: Clues) -> Iterable[Fix]:
    """Neither compiling nor CUDA graphs: slower answers, and it starts."""
    if clues.options.get("enforce-eager") is not True:
        yield with_option("enforce-eager", True)


def batch_as_long_as_context(clues: Clues) -> Iterable[Fix]:
    """``max-num-batched-tokens`` raised to the context length, or the context cut to it."""
    batch, length = clues.number("batch"), clues.number("length")
    if length:
        yield with_option("max-num-batched-tokens", int(length))
    if batch and (short := round_length(batch)) >= _SMALLEST_LENGTH:
        yield with_option("max-model-len", short)


# Parallel


def _divisors(number: int, most: int) -> Iterator[int]:
    return (size for size in range(min(number, most), 0, -1) if number % size == 0)


def fewer_gpus(clues: Clues) -> Iterable[Fix]:
    """The largest tensor-parallel size that the GPUs allow: a divisor of the present one, which the heads allow."""
    gpus = clues.number("gpus")
    size = clues.option("tensor-parallel-size")
    rest = clues.option("pipeline-parallel-size")
    if not gpus or size <= 1:
        return
    fitting = next(_divisors(size, max(int(gpus) // max(rest, 1), 1)), 1)
    yield from _tensor_parallel(fitting)


def divisible_heads(clues: Clues) -> Iterable[Fix]:
    """The largest tensor-parallel size below the present one by which the heads can be divided."""
    heads, size = clues.number("heads"), clues.number("size")
    if heads and size and size > 1:
        yield from _tensor_parallel(next(_divisors(int(heads), int(size) - 1), 1))


def one_gpu(clues: Clues) -> Iterable[Fix]:
    """No tensor parallelism."""
    if clues.options.get("tensor-parallel-size") not in (None, 1, "1"):
        yield without_option("tensor-parallel-size")


def _tensor_parallel(size: int) -> Iterator[Fix]:
    yield without_option("tensor-parallel-size") if size == 1 else with_option("tensor-parallel-size", size)


# Flags


def nearest_choice(key: str) -> Offer:
    """Among the ``choices`` of the message the one that is spelled most like ``value``; else leaving the flag out."""

    def offer(clues: Clues) -> Iterable[Fix]:
        choices = split_choices(str(clues.facts.get("choices", "")))
        close = difflib.get_close_matches(str(clues.facts.get("value", "")), choices, n=1, cutoff=0.7)
        if close:
            yield with_option(key, close[0])
        yield without_option(key)

    return offer


def argument_choice(clues: Clues) -> Iterable[Fix]:
    """The same for the flag that the parser names."""
    if key := _named_flag(clues):
        yield from nearest_choice(key)(clues)


def argument_removed(clues: Clues) -> Iterable[Fix]:
    """Leaving out the flag that the parser names."""
    if key := _named_flag(clues):
        yield without_option(key)


def _named_flag(clues: Clues) -> str | None:
    match = re.search(r"--([\w.-]+)", str(clues.facts.get("flag", "")))
    if match is None:
        return None
    found = flags.find(match[1])
    return found.name if found else match[1]


def unknown_flags(clues: Clues) -> Iterable[Fix]:
    """For each flag that vLLM does not have the one that is spelled most like it; else leaving it out."""
    given = re.findall(r"(?<!\S)--([\w.-]+)(?:[= ](?!-)(\S+))?", str(clues.facts.get("arguments", "")))
    values = {flags.normalise(word): value or True for word, value in given}
    keys = list(values)
    for key in keys:
        near = flags.nearest(key)
        if near and near != key:
            change: Mapping[str, object] = {key: None, near: clues.options.get(key, values[key])}
            shown = f"--{near} instead of --{key}"
            yield Fix(f"{near} for {key}", f"Start with {shown}", change, words="instead",
                      facts={"change": f"--{near}", "before": f"--{key}"})  # fmt: skip
    if keys:
        shown = " ".join(f"--{key}" for key in keys)
        yield Fix(
            f"no {shown}", f"Start without {shown}", dict.fromkeys(keys), words="without", facts={"change": shown}
        )


def split_choices(text: str) -> list[str]:
    """Names in a message: ``'a', 'b'``, ``a, b``, ``{ a,b }``."""
    return [word for part in re.split(r"[,{}\[\]()]", text) if (word := part.strip().strip("'\"`"))]


def lora_rank(clues: Clues) -> Iterable[Fix]:
    """The smallest rank that vLLM takes and that holds the adapter's."""
    rank = clues.number("rank")
    fitting = next((allowed for allowed in _LORA_RANKS if rank and allowed >= rank), None)
    if fitting:
        yield with_option("max-lora-rank", fitting)


# Where the files come from


def other_sources(clues: Clues) -> Iterable[Fix]:
    """ModelScope, a mirror, or the hub itself: those that were not tried."""
    if clues.env.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true"):
        yield from from_hugging_face(clues)
    else:
        yield Fix(
            "modelscope",
            "Download from ModelScope",
            env={"VLLM_USE_MODELSCOPE": "True"},
            words="modelscope",
        )
    endpoint = clues.env.get("HF_ENDPOINT", "").rstrip("/")
    if endpoint != MIRROR:
        yield Fix(
            "mirror",
            f"Download from {MIRROR}",
            env={"HF_ENDPOINT": MIRROR, "VLLM_USE_MODELSCOPE": "False"},
            words="from",
            facts={"change": MIRROR},
        )
    if endpoint and endpoint != HUB:
        yield Fix("hub-itself", f"Download from {HUB}", env={"HF_ENDPOINT": HUB}, words="from", facts={"change": HUB})


def from_hugging_face(clues: Clues) -> Iterable[Fix]:
    """The hub in place of ModelScope."""
    yield Fix("hub", "Download from Hugging Face", env={"VLLM_USE_MODELSCOPE": "False"}, words="hub")


def hub_token(clues: Clues) -> Iterable[Fix]:
    """A token of one's own."""
    yield ask_env("HF_TOKEN")


def longer_patience(clues: Clues) -> Iterable[Fix]:
    """Three times as long for the engine to become ready."""
    waited = clues.number("seconds") or 600
    yield with_env("VLLM_ENGINE_READY_TIMEOUT_S", str(int(waited) * 3))
