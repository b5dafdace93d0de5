"""The generator's output and result: real ones of vLLM 0.32, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shooting_range import SAMPLES

from server_manager.load_test.output import OutputReader, explain
from server_manager.load_test.results import histogram, read_result
from server_manager.load_test.run import Level, LevelProgress

LEVEL = Level("4", 4, None, 4, 0)


def test_progress_from_what_the_real_one_prints(tmp_path: Path) -> None:
    bars = (SAMPLES / "bench_chat_stderr.txt").read_bytes().rstrip(b"\n").rpartition(b"\n")[2] + b"\n"
    out = tmp_path / "out.log"
    reader = OutputReader(out, num_prompts=4, num_warmups=2)
    assert reader.read() == LevelProgress("starting", 0, 4)
    out.write_bytes(b"Starting initial single prompt test run...\nFetching: 100%|##| 4/4 [00:00<00:00]\r")
    assert reader.read().phase == "starting"
    with out.open("ab") as file:
        file.write(
            b"Warming up with 2 requests...\n\r  0%|          | 0/2 [00:00<?, ?it/s]\r 50%|#####     | 1/2 [00:0"
        )
        file.flush()
        assert reader.read() == LevelProgress("warm-up", 1, 2)
        file.write(b"0<00:01,  2.35it/s]\nWarmup run completed.\nStarting main benchmark run...\n")
        file.flush()
        assert reader.read() == LevelProgress("running", 0, 4)
        file.write(bars[: bars.index(b"2.35it/s]")])
        file.flush()
        assert reader.read() == LevelProgress("running", 1, 4)
        file.write(bars[bars.index(b"2.35it/s]") :])
        file.flush()
    assert reader.read() == LevelProgress("running", 4, 4)


@pytest.mark.parametrize(
    ("said", "why", "told"),
    [
        ("OSError: Can't load tokenizer for 'x/y'. If you …", "tokenizer", "cannot get the tokenizer x/y"),
        ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", "tokenizer", "huggingface"),
        ("OSError: [Errno 28] No space left on device", "disk_full", "disk is full"),
        ("vllm bench serve: error: unrecognized arguments: --burst 3", "flags", "--burst 3"),
        ("ValueError: JSONL file must contain a 'prompt' column.", "dataset", "/data/d.jsonl"),
        ("IndexError: Cannot choose from an empty sequence", "dataset", "conversations"),
        ("ModuleNotFoundError: No module named 'pandas'", "package", "pandas"),
        ("ValueError: --random-input-len is too small: with tokenizer", "input_len", "too short"),
        ("SomeError: nobody has seen this", "generator", "nobody has seen this"),
        ("", "generator", "said nothing"),
    ],
)
def test_why_the_generator_failed(said: str, why: str, told: str) -> None:
    lines = ["Namespace(subparser='bench')", "Traceback (most recent call last):", '  File "x.py", line 1', said]
    found = explain(lines if said else [], 1, tokenizer="x/y", dataset="/data/d.jsonl")
    assert found.facts["why"] == why
    assert told in f"{found.message} {found.next_step}"
    assert found.next_step


def test_a_generator_that_was_killed() -> None:
    assert "signal 9" in explain([], -9, tokenizer="x", dataset="").message


def test_figures_of_a_real_result() -> None:
    found = read_result(SAMPLES / "bench_chat.json", LEVEL)
    assert found.error is None
    assert found.metrics.completed == 4
    assert found.metrics.output_throughput == pytest.approx(50.0266, abs=1e-3)
    assert found.metrics.p99_ttft_ms == pytest.approx(206.7476, abs=1e-3)
    assert found.metrics.p90_ttft_ms is None, "it was not asked for"
    assert found.metrics.request_goodput is None
    assert found.histogram is None, "it was not saved in detail"


def test_a_run_in_which_every_request_failed_has_no_figures_though_it_exited_with_0() -> None:
    found = read_result(SAMPLES / "bench_dead.json", LEVEL)
    assert found.metrics.completed == 0
    assert found.metrics.mean_ttft_ms is None, "vLLM writes 0"
    assert found.error is not None
    assert "All 4 requests failed" in found.error.message


def detailed(tmp_path: Path, **changes: Any) -> Path:
    document = json.loads((SAMPLES / "bench_chat.json").read_text()) | changes
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    return path


def test_why_some_requests_failed(tmp_path: Path) -> None:
    gone = "Traceback (most recent call last):\n  …\naiohttp.ServerDisconnectedError: Server disconnected\n"
    errors = ["", "Bad Request", "Bad Request", gone, ""]
    path = detailed(tmp_path, completed=2, failed=3, errors=errors, ttfts=[0.2, 0.0, 0.0, 0.5, 0.3])
    found = read_result(path, LEVEL)
    assert found.error is None
    texts = [note.text for note in found.warnings]
    assert any(
        "3 of 5 requests failed: Bad Request (2); " in text and "Server disconnected (1)" in text for text in texts
    )
    assert found.histogram is not None
    assert sum(found.histogram.counts) == 2, "only those that were answered"
    assert found.histogram.edges_ms[0] == 200

    nothing = read_result(detailed(tmp_path, completed=0, failed=2, errors=["Unauthorized"] * 2), LEVEL)
    assert nothing.error is not None
    assert "another API key" in nothing.error.message
    assert "DECK_ATTACH_API_KEY" in nothing.error.next_step


def test_levels_that_were_not_reached(tmp_path: Path) -> None:
    low = read_result(detailed(tmp_path, max_concurrent_requests=3), LEVEL)
    assert [note.code for note in low.warnings] == ["level_not_reached"]
    assert not read_result(detailed(tmp_path), LEVEL).warnings
    rate = read_result(detailed(tmp_path), Level("20/s", None, 20.0, 4, 0))
    assert [note.code for note in rate.warnings] == ["rate_not_reached"]
    assert not read_result(detailed(tmp_path), Level("8/s", None, 8.0, 4, 0)).warnings


def test_half_a_result_is_none(tmp_path: Path) -> None:
    whole = (SAMPLES / "bench_chat.json").read_text()
    for text in (whole[:300], "[]", "{}", ""):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(ValueError, match=r".*"):
            read_result(tmp_path / "result.json", LEVEL)


@pytest.mark.parametrize(
    "values", [[5.0], [5.0, 5.0], [float(n) for n in range(1, 101)], [1.0] * 50 + [4000.0], [0.0, 10.0]]
)
def test_every_request_stands_in_one_bar(values: list[float]) -> None:
    found = histogram(values)
    assert found is not None
    assert sum(found.counts) == len(values)
    assert len(found.edges_ms) == len(found.counts) + 1 <= 25
    assert list(found.edges_ms) == sorted(set(found.edges_ms))
    assert histogram([]) is None
