"""The phases of recorded starts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from processes import VLLM_LOGS

from server_manager.log_file import LogFollower, split_lines
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
        ("Profiling CUDA graph memory: PIECEWISE=51 (largest=512)", P.KV_CACHE, ""),
        ("(Worker_TP0 pid=7) Model loading took 14.29 GiB memory and 3.1 seconds", P.WEIGHTS, "14.29 GiB"),
        ("Loading pt checkpoint shards: 100% Completed | 3/3 [00:01<00:00,  1.67s/it]", P.WEIGHTS, "3/3"),
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


INITIALIZING = (
    "(EngineCore pid=2) INFO 11-22 10:30:20 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: "
    "enforce_eager={}, compilation_config={{'mode': <CompilationMode.{}>"
)


@pytest.mark.parametrize(
    ("eager", "mode", "expected"),
    [("False", "VLLM_COMPILE: 3", P.COMPILE), ("True", "NONE: 0", P.WEIGHTS), ("False", "NONE: 0", P.WEIGHTS)],
)
def test_the_run_that_compiles_begins_when_the_weights_are_there(eager: str, mode: str, expected: StartPhase) -> None:
    progress = StartProgress()
    progress.take([INITIALIZING.format(eager, mode), "Model loading took 0.93 GiB and 2.022607 seconds"])
    assert progress.reached.phase is expected


def test_a_hubs_model_is_downloaded_before_its_weights_are_read() -> None:
    progress = StartProgress(may_download=True)
    progress.take(["Initializing a V1 LLM engine (v0.32.0)"])
    progress.downloading("9 MB, 1 MB/s")
    assert progress.reached.phase is P.ENGINE, "that was the tokenizer: loading has not begun"
    progress.take(["(Worker pid=7) INFO 11-22 10:09:42 [m.py:1] Starting to load model Qwen/Qwen2-0.5B-Instruct..."])
    assert progress.reached.phase is P.ENGINE, "not known yet whether its files are there"
    progress.downloading("3.2 GB, 45 MB/s")
    assert (progress.reached.phase, progress.reached.detail) == (P.DOWNLOAD, "3.2 GB, 45 MB/s")
    assert progress.before_weights
    progress.take(["Filesystem type for checkpoints: EXT4. Checkpoint size: 0.92 GiB. Available RAM: 123.30 GiB."])
    assert progress.reached.phase is P.WEIGHTS
    progress.downloading("4 GB, 1 MB/s")
    assert progress.reached.phase is P.WEIGHTS, "never back"


@pytest.mark.parametrize("log", LOGS)
def test_a_hubs_model_whose_files_are_there_has_no_download(log: str) -> None:
    progress = StartProgress(may_download=True)
    seen = []
    for line in lines_of(log):
        progress.take([line])
        seen.append(progress.reached.phase)
    assert P.WEIGHTS in seen
    assert P.DOWNLOAD not in seen


def test_phases_are_read_out_of_any_noise(tmp_path: Path) -> None:
    """Lines over 64 KiB, broken UTF-8, bars that only return the carriage, both kinds of prefix; in pieces."""
    noise = b"".join([
        b"(APIServer pid=1) INFO 11-22 10:09:42 [a.py:1] non-default args: {'x': '" + b"y" * 70_000 + b"'}\n",
        b"broken \xff\xfe utf-8\n",
        b"(EngineCore pid=2) \r\nLoading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<?, ?it/s]\r\n",
        b"".join(b"\rCapturing CUDA graphs (decode, FULL): %3d%%|##| %d/4 [" % (i * 25, i) for i in range(5)),
        b"\n",
    ])  # fmt: skip
    path = tmp_path / "log"
    follower, progress, seen = LogFollower(path), StartProgress(), []
    with path.open("ab", buffering=0) as log:
        for start in range(0, len(noise), 4_001):
            log.write(noise[start : start + 4_001])
            for line in follower.read_new():
                if progress.take([line]):
                    seen.append((progress.reached.phase, progress.reached.detail))
    assert seen == [(P.CONFIG, ""), (P.WEIGHTS, "1/2"), *((P.CUDA_GRAPHS, f"{done}/4") for done in range(5))]
