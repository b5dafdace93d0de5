"""Memory: of the GPU, of the KV cache, of the machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from server_manager.diagnosis.fixes import (
    both,
    eager,
    fewer_sequences,
    fixed_cpu_cache,
    removing,
    sequences_at_most,
    setting,
    shorter_context,
    smaller_cpu_cache,
    utilization_back_to_default,
    utilization_that_fits,
    with_option,
)
from server_manager.diagnosis.report import Fix
from server_manager.diagnosis.rule import Clues, rule

_OOM = (
    r"CUDA out of memory|HIP out of memory|XPU out of memory|(?:torch\.|cuda\.)OutOfMemoryError|"
    r"CUDA error: out of memory|cudaErrorMemoryAllocation|CUDA driver error: out of memory|"
    r"CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED"
)
_TRIED = re.compile(r"Tried to allocate (?P<tried>[\d.]+ [KMGT]iB)")
_GPU = re.compile(
    r"GPU (?P<gpu>\d+) has a total capacity of (?P<total>[\d.]+) GiB of which (?P<free>[\d.]+ [KMG]iB) is free"
)
_OTHERS = re.compile(r"Process \d+ has (?P<others>[\d.]+) GiB memory in use")
_AVAILABLE = re.compile(r"Available KV cache memory: (?P<available>-?[\d.]+) GiB")
_WEIGHTS = re.compile(r"Model loading took (?P<weights>[\d.]+) (?:GiB|GB)")


def _oom_facts(clues: Clues) -> Mapping[str, object]:
    """What PyTorch says of the GPU, as one piece of text that may be empty."""
    message = clues.message
    gpu, tried = _GPU.search(message), _TRIED.search(message)
    parts = []
    if tried:
        parts.append(f"it wanted {tried['tried']} more")
    if gpu:
        parts.append(f"{gpu['free']} of {gpu['total']} GiB were free")
    facts: dict[str, object] = {"detail": f" ({', '.join(parts)})" if parts else ""}
    if gpu:
        facts["total"] = float(gpu["total"])
    if others := _OTHERS.search(message):
        facts["others"] = float(others["others"])
    return facts


def _held_by_others(clues: Clues) -> bool:
    """Whether another process holds a good part of the GPU: PyTorch counts them in its message."""
    others, total = clues.number("others"), clues.number("total")
    return bool(others and total and others > 0.15 * total)


def _lower_utilization(clues: Clues) -> Iterable[Fix]:
    """A tenth less for weights and cache leaves more for what vLLM does not count."""
    try:
        share = float(str(clues.options.get("gpu-memory-utilization", 0.92)))
    except ValueError:
        return
    if share > 0.55:
        yield with_option("gpu-memory-utilization", round(share - 0.1, 2))


def _none_left(clues: Clues) -> Mapping[str, object]:
    found = clues.story.last_match(_AVAILABLE)
    weights = clues.story.last_match(_WEIGHTS)
    parts = []
    if weights:
        parts.append(f"the weights take {weights['weights']} GiB")
    if found:
        parts.append(f"{found['available']} GiB remain")
    return {"detail": f" ({', '.join(parts)})" if parts else ""}


RULES = (
    rule(
        "kv_cache_too_small",
        r"To serve at least one request with the models?'?s? max seq len \((?P<length>\d+)\)"
        r"[\s\S]*?\(?(?P<needed>[\d.]+) GiB KV cache is needed[\s\S]*?KV cache memory \((?P<available>[\d.]+) GiB\)"
        r"(?:[\s\S]*?estimated maximum model length is (?P<estimate>\d+))?",
        "The KV cache is too small for one request of {length} tokens: that needs {needed} GiB, and {available} GiB "
        "are left.",
        "Make the context shorter (--max-model-len), or give the cache more memory (--gpu-memory-utilization, "
        "--kv-cache-memory-bytes, a GPU that nothing else uses).",
        both(shorter_context, utilization_back_to_default),
    ),
    rule(
        "kv_cache_too_small",
        r"max seq len \((?P<length>\d+)\) is larger than the maximum number of tokens that can be stored in KV cache "
        r"\((?P<estimate>\d+)\)",
        "The KV cache holds {estimate} tokens, and one request may have {length}.",
        "Make the context shorter (--max-model-len), or give the cache more memory (--gpu-memory-utilization).",
        both(shorter_context, utilization_back_to_default),
    ),
    rule(
        "no_kv_cache",
        r"No available memory for the cache blocks|Cannot auto-fit max_model_len: not enough GPU memory",
        "After the weights nothing is left for the KV cache{detail}.",
        "Free the GPU, allow a larger share (--gpu-memory-utilization), take a smaller or quantised model, or split it "
        "over more GPUs (--tensor-parallel-size).",
        both(utilization_back_to_default, eager),
        more=_none_left,
    ),
    rule(
        "gpu_busy",
        r"Free memory on device \S* ?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less than "
        r"(?:desired GPU memory utilization|the engine's budget after excluding external process's weights) "
        r"\((?P<share>[\d.]+), (?P<wanted>[\d.]+) GiB\)",
        "Only {free} of the GPU's {total} GiB are free, and vLLM wants {wanted} GiB (--gpu-memory-utilization "
        "{share}).",
        "Stop what else uses the GPU (another server, a leftover of one), or ask for less with "
        "--gpu-memory-utilization.",
        utilization_that_fits,
    ),
    rule(
        "gpu_busy",
        r"Free memory on device \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\)",
        "Only {free} of the GPU's {total} GiB are free, less than vLLM wants.",
        "Stop what else uses the GPU, or ask for less with --gpu-memory-utilization.",
        utilization_that_fits,
    ),
    rule(
        "memory_profiling_disturbed",
        r"Error in memory profiling|Initial (?:free|used) memory [\s\S]*current (?:free|used) memory|"
        r"This happens when other processes sharing the same container release GPU memory",
        "Another process took or gave back GPU memory while vLLM measured it.",
        "Start one server after the other on a GPU. A fixed cache (--kv-cache-memory-bytes) needs no measuring.",
    ),
    rule(
        "cpu_memory_busy",
        r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less than desired CPU "
        r"memory utilization \((?P<share>[\d.]+), (?P<wanted>[\d.]+) GiB\)",
        "Only {free} of the machine's {total} GiB of memory are free, and vLLM wants {wanted} GiB (a share of "
        "{share}).",
        "Set the cache's size itself with --kv-cache-memory-bytes (vLLM then takes only that), or lower "
        "--gpu-memory-utilization, which on a CPU means the machine's memory.",
        both(fixed_cpu_cache, utilization_that_fits),
    ),
    rule(
        "cpu_cache_too_large",
        r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on kv cache allocation is less than "
        r"requested memory for kv \((?P<wanted>[\d.]+)",
        "The KV cache is to have {wanted} GiB, and {free} of the machine's {total} GiB are free.",
        "Lower --kv-cache-memory-bytes (or VLLM_CPU_KVCACHE_SPACE).",
        smaller_cpu_cache,
    ),
    rule(
        "too_many_sequences",
        r"max_num_seqs \((?P<sequences>\d+)\) exceeds available Mamba cache blocks \((?P<limit>\d+)\)",
        "This model has room for {limit} conversations at once, and {sequences} are asked for.",
        "Lower --max-num-seqs to {limit}, or allow more memory with --gpu-memory-utilization.",
        sequences_at_most,
    ),
    rule(
        "oom_warmup",
        r"out of memory occurred when warming up (?:sampler|pooler)[\s\S]*?with (?P<sequences>\d+) dummy requests",
        "The GPU ran out of memory when vLLM tried {sequences} requests at once.",
        "Lower --max-num-seqs, or lower --gpu-memory-utilization so that more is left beside the cache.",
        both(fewer_sequences, _lower_utilization),
    ),
    rule(
        "oom_others",
        _OOM,
        "The GPU ran out of memory, and another process holds {others} of its {total} GiB.",
        "Stop the other process (its number stands in the line above), or ask for less with --gpu-memory-utilization.",
        when=_held_by_others,
        more=_oom_facts,
    ),
    rule(
        "oom_serving",
        _OOM,
        "The GPU ran out of memory while it served{detail}.",
        "Leave more memory beside the cache (a lower --gpu-memory-utilization), or allow fewer tokens at once "
        "(--max-num-seqs, --max-num-batched-tokens).",
        _lower_utilization,
        when=lambda clues: clues.served,
        more=_oom_facts,
    ),
    rule(
        "oom_graphs",
        _OOM,
        "The GPU ran out of memory while CUDA graphs were captured{detail}.",
        "Leave more memory beside the cache (a lower --gpu-memory-utilization), or do without graphs "
        "(--enforce-eager).",
        both(_lower_utilization, eager),
        when=lambda clues: clues.passed_through("capture_model", "_capture_cudagraphs", "capture", "capture_graphs"),
        more=_oom_facts,
    ),
    rule(
        "oom_profiling",
        _OOM,
        "The weights fit, but the GPU ran out of memory in the trial run{detail}.",
        "Process fewer tokens at once (--max-num-batched-tokens, --max-num-seqs), make the context shorter, or split "
        "the model over more GPUs.",
        setting("max-num-batched-tokens", 2048),
        when=lambda clues: clues.passed_through("determine_available_memory", "profile_run", "_dummy_run"),
        more=_oom_facts,
    ),
    rule(
        "oom_cache",
        _OOM,
        "The GPU ran out of memory while the KV cache was made{detail}.",
        "Ask for a smaller share (--gpu-memory-utilization) or a smaller cache (--kv-cache-memory-bytes).",
        both(removing("kv-cache-memory-bytes"), _lower_utilization),
        when=lambda clues: clues.passed_through(
            "initialize_kv_cache", "initialize_from_config", "_allocate_kv_cache_tensors"
        ),
        more=_oom_facts,
    ),
    rule(
        "oom_loading",
        _OOM,
        "The model's weights do not fit into the GPU's memory{detail}.",
        "Take a smaller or quantised model, or split it over more GPUs (--tensor-parallel-size).",
        when=lambda clues: clues.passed_through("load_model", "load_weights", "initialize_model", "create_weights"),
        more=_oom_facts,
    ),
    rule(
        "oom",
        _OOM,
        "The GPU ran out of memory{detail}.",
        "Stop what else uses the GPU, take a smaller or quantised model, or split it over more GPUs "
        "(--tensor-parallel-size).",
        _lower_utilization,
        more=_oom_facts,
    ),
    rule(
        "weights_are_pointers",  # the first eight bytes of a safetensors file are a length; those of a text are huge
        r"^MemoryError",
        "A weight file is not what its name says: often a Git LFS pointer of some bytes in place of the weights.",
        "Download the model again (`hf download`, or `git lfs pull` in the folder).",
        when=lambda clues: clues.passed_through("parse_safetensors_file_metadata", "safetensors_weights_iterator"),
    ),
    rule(
        "host_out_of_memory",
        r"DefaultCPUAllocator: (?:can't|not enough) |DefaultCPUAllocator: not enough memory|std::bad_alloc|"
        r"\[Errno 12\] Cannot allocate memory|^MemoryError|Unable to allocate [\d.]+ [KMGT]iB for an array",
        "The machine ran out of main memory (RAM).",
        "Close other programs, or load less: a smaller model, less --swap-space and --cpu-offload-gb; in a container "
        "raise its memory limit.",
    ),
    rule(
        "host_pinned_memory",
        r"cudaHostAlloc|cudaErrorHostMemory|CachingHostAllocator|pin(?:ned)? memory[\s\S]*?(?:fail|denied|out of)",
        "Main memory (RAM) could not be reserved for the GPU.",
        "Close other programs, or lower --cpu-offload-gb and --kv-offloading-size; in a container raise its "
        "memory limit "
        "and ulimit -l.",
    ),
    rule(
        "shared_memory_too_small",
        r"Insufficient space in (?P<folder>/dev/shm) for [^:]*: (?P<needed>\d+) MiB required, (?P<free>\d+) MiB free",
        "The shared memory {folder} has {free} MiB free, and vLLM needs {needed} MiB.",
        "In a container give it more: --ipc=host or --shm-size=8g.",
    ),
    rule(
        "shared_memory_full",
        r"No space left on device[^\n]*(?:/dev/shm|psm_)|/dev/shm[\s\S]{0,300}?No space left|"
        r"Error while creating shared memory segment|posix_fallocate|unable to (?:allocate|mmap) shared memory|"
        r"No space left on device \(28\)",
        "The shared memory /dev/shm is full or too small.",
        "In a container give it more: --ipc=host or --shm-size=8g. Otherwise remove leftovers from /dev/shm.",
    ),
)
