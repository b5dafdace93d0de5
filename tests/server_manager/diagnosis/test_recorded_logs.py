"""Every log in ``tests/vllm_logs`` is told right: its cause, the line that proves it, and what can be corrected.

``expected.yaml`` beside the logs says what is right. To add a cause: its log there, and an entry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import VLLM_LOGS

from server_manager.diagnosis import Diagnosis, diagnose, diagnose_file
from server_manager.diagnosis.card import card, no_failure
from server_manager.diagnosis.log_source import lines_of

EXPECTED: dict[str, dict[str, Any] | None] = yaml.safe_load((VLLM_LOGS / "expected.yaml").read_text(encoding="utf-8"))
LOGS = sorted(VLLM_LOGS.rglob("*.log"))


def name_of(path: Path) -> str:
    return path.relative_to(VLLM_LOGS).with_suffix("").as_posix()


def read(path: Path) -> list[str]:
    return lines_of(path.read_bytes())


def test_every_log_is_expected() -> None:
    assert sorted(EXPECTED) == sorted(map(name_of, LOGS))


@pytest.mark.parametrize("path", LOGS, ids=name_of)
def test_cause_proof_and_fixes(path: Path) -> None:
    expected = EXPECTED[name_of(path)]
    found = diagnose_file(path)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert found.cause == expected["cause"]
    assert expected["proof"] in found.evidence
    assert found.line is not None
    proof = found.evidence.removesuffix("…")[:80].rpartition(": ")[2]
    assert proof in read(path)[found.line - 1]
    assert [fix.label for fix in found.fixes] == expected.get("fixes", [])
    assert "?" not in found.title + found.remedy
    assert "{" not in found.title + found.remedy.replace("{ ", "")


def _with_timestamps(lines: list[str]) -> list[str]:
    return [f"2026-11-22T10:09:42.123456789Z {line}" for line in lines]


CARRIERS = {
    "kubectl --timestamps": _with_timestamps,
    "cri-o": lambda lines: [f"2026-11-22T10:09:42.123456789+00:00 stderr F {line}" for line in lines],
    "compose": lambda lines: [f"vllm-1  | {line}" for line in lines],
    "compose with timestamps": lambda lines: [f"vllm-1  | {line}" for line in _with_timestamps(lines)],
    "kubectl --prefix": lambda lines: [f"[pod/vllm-0/vllm] {line}" for line in lines],
    "journald": lambda lines: [f"Nov 22 10:09:42 gpu-host vllm[4711]: {line}" for line in lines],
    "carriage returns": lambda lines: [f"{line}\r" for line in lines],
    "colours": lambda lines: [
        line.replace("(EngineCore", "\x1b[0;36m(EngineCore").replace(") ", ")\x1b[0;0m ", 1) for line in lines
    ],
}
CARRIED = ["err_gpu_kv_small", "err_corrupt", "err_hub_unreachable", "err_bad_value", "stop_kill_enginecore", "ok_uni"]


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("log", CARRIED)
def test_what_others_write_in_front_changes_nothing(log: str, carrier: str) -> None:
    lines = read(VLLM_LOGS / f"{log}.log")
    assert diagnose(CARRIERS[carrier](lines)) == diagnose(lines)


@pytest.mark.parametrize("path", [path for path in LOGS if name_of(path).startswith("err_gpu")], ids=name_of)
def test_logs_of_versions_that_name_no_process(path: Path) -> None:
    lines = [line.split(") ", 1)[1] if line.startswith("(") and " pid=" in line else line for line in read(path)]
    found, expected = diagnose(lines), diagnose(read(path))
    assert found is not None
    assert expected is not None
    assert (found.cause, found.line) == (expected.cause, expected.line)


def test_a_container_that_was_restarted_is_told_by_its_last_run() -> None:
    first, second = read(VLLM_LOGS / "err_tp4.log"), read(VLLM_LOGS / "err_gpu_kv_small.log")
    found = diagnose([*first, *second])
    assert found is not None
    assert found.cause == "kv_cache_too_small"
    assert found.line == len(first) + 59
    assert diagnose([*first, *read(VLLM_LOGS / "ok_uni.log")]) is None


def test_a_log_that_breaks_off_in_a_new_start_is_told_by_the_run_before() -> None:
    found = diagnose([*read(VLLM_LOGS / "err_tp4.log"), *read(VLLM_LOGS / "ok_uni.log")[:9]])
    assert found is not None
    assert found.cause == "heads_not_divisible"


@pytest.mark.parametrize("path", [path for path in LOGS if name_of(path).startswith("ok_")], ids=name_of)
def test_a_good_start_cut_anywhere_tells_of_no_failure(path: Path) -> None:
    lines = read(path)
    for end in range(0, len(lines), 7):
        assert diagnose(lines[:end]) is None, end


def test_what_is_told_of_a_log_without_a_failure() -> None:
    assert "was asked to stop (line 102)" in no_failure(read(VLLM_LOGS / "stop_term_inflight.log"))
    assert "while the server starts" in no_failure(read(VLLM_LOGS / "stop_kill9_loading.log"))
    assert "was ready (line 94)" in no_failure(read(VLLM_LOGS / "ok_uni.log")[:95])
    assert no_failure([""]) == "The log is empty."
    assert "looks like vLLM's log" in no_failure(["root:x:0:0:root:/root:/bin/bash"])


def test_the_returncode_tells_what_the_log_cannot() -> None:
    lines = read(VLLM_LOGS / "stop_kill9_loading.log")
    assert diagnose(lines) is None
    assert _cause(diagnose(lines, returncode=-9)) == "killed"
    assert _cause(diagnose(lines, returncode=137)) == "killed"
    assert _cause(diagnose(lines, returncode=-11)) == "died_of_signal"
    assert _cause(diagnose(lines, returncode=-15)) == "terminated"
    assert _cause(diagnose(lines, returncode=1)) == "no_reason"
    assert _cause(diagnose([], returncode=1)) == "no_reason"
    serving = read(VLLM_LOGS / "ok_uni.log")
    assert _cause(diagnose(serving, returncode=0, served=True)) == "stopped_by_others"
    assert _cause(diagnose(serving[:95], returncode=-9, served=True)) == "killed"


def _cause(found: Diagnosis | None) -> str | None:
    return found.cause if found else None


def test_a_very_long_log_keeps_its_line_numbers(tmp_path: Path) -> None:
    path = tmp_path / "long.log"
    serving = 'INFO:     127.0.0.1:60018 - "GET /health HTTP/1.1" 200 OK'
    start, crash = _cut(VLLM_LOGS / "made" / "oom_serving.log")
    lines = [*start, *[serving] * 150_000, *crash]
    path.write_text("\n".join(lines))
    found = diagnose_file(path)
    assert found is not None
    assert found == diagnose(lines)
    assert "CUDA out of memory" in lines[(found.line or 0) - 1]


def _cut(path: Path) -> tuple[list[str], list[str]]:
    lines = read(path)
    at = next(index for index, line in enumerate(lines) if "startup complete" in line) + 1
    return lines[:at], lines[at:]


def test_the_card_says_all_of_it() -> None:
    found = diagnose(read(VLLM_LOGS / "err_gpu_kv_small.log"))
    assert found is not None
    text = "\n".join(card(found))
    assert "0.38 GiB" in text
    assert "line 59: ValueError: To serve at least one request" in text
    assert "- Start with --max-model-len 1664" in text
