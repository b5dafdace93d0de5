"""The phases of recorded starts."""

from __future__ import annotations

import random

import pytest
from processes import VLLM_LOGS

from server_manager.log_file import split_lines
from server_manager.start_phase import ORDER, StartPhase, StartProgress, phase_of, strip_prefix

P = StartPhase
CPU_EAGER = [P.CONFIG, P.ENGINE, P.WEIGHTS, P.KV_CACHE, P.SERVING]
LOGS = {
    "ok_eager_kv1g": CPU_EAGER,
    "ok_json_schema": CPU_EAGER,
    "ok_tmpdir": CPU_EAGER,
    "ok_uni": CPU_EAGER,
    "ok_maxlen_auto": CPU_EAGER,
    "ok_compile_cold": [P.CONFIG, P.ENGINE, P.WEIGHTS, P.COMPILE, P.KV_CACHE, P.SERVING],
    "ok_gpu_cold_0.25.1": [P.CONFIG, P.ENGINE, P.WEIGHTS, P.COMPILE, P.KV_CACHE, P.CUDA_GRAPHS, P.SERVING],
}


def lines_of(log: str) -> list[str]:
    return split_lines((VLLM_LOGS / f"{log}.log").read_bytes())


def test_every_recorded_start_is_tried() -> None:
    assert {path.stem for path in VLLM_LOGS.glob("ok_*.log")} == set(LOGS)


@pytest.mark.parametrize(("log", "expected"), LOGS.items(), ids=LOGS.keys())
def test_phases_in_order(log: str, expected: list[StartPhase]) -> None:
    progress = StartProgress()
    seen = []
    for line in lines_of(log):
        if progress.take([line]) and progress.reached.phase not in seen:
            seen.append(progress.reached.phase)
    assert seen == expected


@pytest.mark.parametrize("log", LOGS)
def test_progress_never_goes_back_in_whatever_order_the_lines_come(log: str) -> None:
    lines = lines_of(log)
    random.Random(1).shuffle(lines)
    progress = StartProgress()
    before = progress.reached.phase
    for line in lines:
        progress.take([line])
        assert ORDER.index(progress.reached.phase) >= ORDER.index(before)
        before = progress.reached.phase
    assert before is P.SERVING


def test_nothing_new_is_said_to_be_nothing_new() -> None:
    progress = StartProgress()
    line = "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<?, ?it/s]"
    assert progress.take([line]) is True
    assert progress.take([line, "something else"]) is False


@pytest.mark.parametrize(
    ("line", "phase", "detail"),
    [
        ("\rLoading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<?, ?it/s]", P.WEIGHTS, "1/2"),
        ("(Worker pid=7) INFO 11-22 10:09:42 [l.py:1] Loading weights took 1.67 seconds", P.WEIGHTS, "1.67 s"),
        ("(EngineCore pid=7) Capturing CUDA graphs (decode, FULL):  50%|##| 4/8 [00:01]", P.CUDA_GRAPHS, "4/8"),
        ("(Worker pid=7) INFO 11-22 10:09:42 [k.py:2] CPU KV cache size: 43,072 tokens", P.KV_CACHE, "43,072 tokens"),
        ("Available KV cache memory: 60.21 GiB", P.KV_CACHE, "60.21 GiB"),
    ],
)  # fmt: skip
def test_what_a_line_tells_besides(line: str, phase: StartPhase, detail: str) -> None:
    reached = phase_of(split_lines(line.encode())[0])
    assert reached is not None
    assert (reached.phase, reached.detail) == (phase, detail)


def test_prefixes_of_both_versions_are_taken_off() -> None:
    assert strip_prefix("(APIServer pid=1) INFO 11-22 10:09:42 [a.py:1] text") == "text"
    assert strip_prefix("(APIServer pid=1) text") == "text"
    assert strip_prefix("text") == "text"
    assert phase_of("an ordinary line") is None
