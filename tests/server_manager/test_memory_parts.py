"""What vLLM's own lines say of its memory: real logs, and the lines of several workers."""

from __future__ import annotations

import pytest
from processes import VLLM_LOGS

from server_manager.log_file import split_lines
from server_manager.memory_parts import MemoryParts, MemoryReader

GIB = 1 << 30


def parts_of(*lines: str) -> MemoryParts:
    reader = MemoryReader()
    reader.take(lines)
    assert reader.parts is not None
    return reader.parts


def of_log(name: str) -> MemoryParts | None:
    reader = MemoryReader()
    reader.take(split_lines((VLLM_LOGS / name).read_bytes()))
    return reader.parts


def gib(value: float) -> int:
    return round(value * GIB)


def test_a_gpu_server_tells_weights_cache_and_graphs() -> None:
    parts = of_log("ok_gpu_cold_0.25.1.log")
    assert parts is not None
    assert not parts.on_cpu
    assert parts.kv_cache_tokens == 1_894_592
    (rank,) = parts.ranks
    assert rank.pid == 1313
    assert (rank.weights_bytes, rank.kv_cache_bytes, rank.cuda_graph_bytes) == (gib(0.93), gib(21.68), gib(0.39))


@pytest.mark.parametrize(
    ("log", "cache_gib", "tokens"),
    [
        ("ok_eager_kv1g.log", 1.0, 46_592),
        ("ok_compile_cold.log", 1.0, 46_592),
        ("ok_uni.log", 1.0, 46_592),
        ("ok_json_schema.log", 0.12, 5_760),
        ("ok_maxlen_auto.log", 0.06, 2_816),
        ("ok_tmpdir.log", 0.25, 11_648),
    ],
)
def test_a_cpu_server_tells_its_cache_and_the_checkpoint(log: str, cache_gib: float, tokens: int) -> None:
    parts = of_log(log)
    assert parts is not None
    assert parts.on_cpu
    assert parts.kv_cache_total_bytes == gib(cache_gib)
    assert parts.weights_total_bytes == gib(0.25)
    assert parts.kv_cache_tokens == tokens


def test_a_start_that_fails_early_tells_nothing() -> None:
    assert of_log("err_bad_flag.log") is None


def test_a_cache_of_given_size_is_told_in_other_words() -> None:
    parts = of_log("err_gpu_kv_small.log")
    assert parts is not None
    assert parts.kv_cache_total_bytes == gib(0.02)


PREFIX = "(Worker_TP{rank} pid={pid}) INFO 11-22 10:38:27 [model_runner.py:425] "


def line(rank: int, text: str) -> str:
    return PREFIX.format(rank=rank, pid=100 + rank) + text


def test_each_worker_is_told_apart_where_each_one_speaks() -> None:
    parts = parts_of(
        line(0, "world_size=2 rank=0 local_rank=0 distributed_init_method=tcp://127.0.0.1:1 backend=nccl"),
        line(0, "Model loading took 7.15 GiB memory and 2.0 seconds"),
        line(1, "Model loading took 7.25 GiB memory and 2.1 seconds"),
    )
    assert [(rank.pid, rank.weights_bytes) for rank in parts.ranks] == [(100, gib(7.15)), (101, gib(7.25))]
    assert parts.weights_total_bytes == gib(7.15) + gib(7.25)
    rank, exact = parts.rank_of(101)
    assert rank is not None
    assert rank.weights_bytes == gib(7.25)
    assert exact


def test_a_silent_worker_is_taken_to_hold_what_the_first_one_holds() -> None:
    parts = parts_of(
        line(0, "world_size=4 rank=0 local_rank=0 distributed_init_method=tcp://127.0.0.1:1 backend=nccl"),
        line(0, "Model loading took 7.15 GiB memory and 2.0 seconds"),
        line(0, "Available KV cache memory: 20.5 GiB"),
    )
    rank, exact = parts.rank_of(103)
    assert rank is not None
    assert (rank.weights_bytes, rank.kv_cache_bytes) == (gib(7.15), gib(20.5))
    assert not exact
    assert parts.weights_total_bytes == 4 * gib(7.15)


def test_the_only_worker_is_known_without_its_pid() -> None:
    parts = parts_of("INFO 11-22 10:38:27 [x.py:1] Model loading took 7.15 GiB memory and 2.0 seconds")
    rank, exact = parts.rank_of(4711)
    assert rank is not None
    assert rank.weights_bytes == gib(7.15)
    assert exact


def test_data_parallel_engines_add_their_tokens() -> None:
    parts = parts_of(
        "(EngineCore_DP0 pid=7) INFO 11-22 10:38:27 [kv.py:1] GPU KV cache size: 1,000 tokens",
        "(EngineCore_DP1 pid=8) INFO 11-22 10:38:27 [kv.py:1] GPU KV cache size: 500 tokens, Maximum concurrency for 4",
    )
    assert parts.kv_cache_tokens == 1_500


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("Model loading took 0.93 GiB and 2.022607 seconds", "weights_bytes", gib(0.93)),
        ("Model loading took 14.29 GiB memory and 1.9 seconds", "weights_bytes", gib(14.29)),
        ("Available KV cache memory: -1.2 GiB", "kv_cache_bytes", 0),
        (
            "Initial free memory 78.66 GiB, reserved 8.0 GiB memory for KV Cache as specified by kv_cache_memory_bytes",
            "kv_cache_bytes",
            gib(8),
        ),
        ("Auto set (1.95/9.84) GiB for KV cache on node 0, with 2.95 GiB requested", "kv_cache_bytes", gib(1.95)),
        ("Graph capturing finished in 3 secs, took 0.39 GiB", "cuda_graph_bytes", gib(0.39)),
        (
            "Free memory on device (78.66/79.18 GiB) on startup. Desired GPU memory utilization is (0.9, 71.26 GiB). "
            "Actual usage is 14.6 GiB for consumed memory (weights + non-torch), 1.4 GiB for peak activation, and 0.5 "
            "GiB for CUDAGraph memory. Replace gpu_memory_utilization config with `--kv-cache-memory=5` (5.0 GiB) to "
            "fit into requested memory. Current kv cache memory in use is 54.7 GiB.",
            "kv_cache_bytes",
            gib(54.7),
        ),
    ],
)
@pytest.mark.parametrize("prefix", ["", "(EngineCore pid=9) ", "(EngineCore pid=9) INFO 11-22 10:38:27 [x.py:425] "])
def test_the_wordings_of_versions_and_runners(prefix: str, text: str, field: str, value: int) -> None:
    (rank,) = parts_of(prefix + text).ranks
    assert getattr(rank, field) == value


def test_what_vllm_suggests_or_complains_of_is_no_figure() -> None:
    reader = MemoryReader()
    reader.take(
        [
            "ValueError: To serve at least one request (0.04 GiB KV cache is needed, which is larger than the available"
            " KV cache memory (0.01 GiB).",
            "INFO: Estimated CUDA graph memory: 0.5 GiB total",
            "ValueError: Free memory on device cuda:0 (8.15/79.18 GiB) on startup is less than desired",
        ]
    )
    assert reader.parts is None


def test_the_last_word_counts_and_is_told_once() -> None:
    told: list[MemoryParts] = []
    reader = MemoryReader(told.append)
    reader.take([line(0, "Model loading took 1.0 GiB memory and 2.0 seconds"), "noise"])
    reader.take(["noise", line(0, "Model loading took 1.0 GiB memory and 3.0 seconds")])
    reader.take([line(0, "Model loading took 2.0 GiB memory and 2.0 seconds")])
    assert [parts.weights_total_bytes for parts in told] == [gib(1), gib(2)]
