"""The arithmetic of the chat benchmark and what it writes. Speed itself is not tested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chat, chat_report, chat_stop
from benchmarks.chat_browser import Seen, goals, medians, read_trace
from benchmarks.fake_engine import Curve


def row(number: int, variant: str, rate: float, firsts: list[float], **more: Any) -> dict[str, Any]:
    """A round of 32 chats, in which 1,000 tokens came."""
    found = {"round": number, "variant": variant, "chats": 32, "tokens": 1000, "seconds": 1000 / rate}
    found |= {"tokens_per_second": rate, "first_tokens_s": firsts, "largest_gap_s": 0.05, "frames": 100}
    return {**found, "idle_share": 0.0, "generator_cpu_share": 0.1, "processes": {}, **more}


def app(cpu_s: float) -> dict[str, Any]:
    return {"app": {"cpu_s": cpu_s}}


ROUNDS = [
    row(0, "direct", 1000, [0.010, 0.020]),
    row(0, "page", 990, [0.020, 0.030], processes=app(0.04), watched_s=1.0, idle_share=0.01),
    row(1, "direct", 500, [0.010, 0.020]),
    row(1, "page", 500, [0.030, 0.200], processes=app(0.02), watched_s=2.0, idle_share=0.005, largest_gap_s=0.2),
]
TURNS = [
    {"round": 0, "turn": 1, "chats": 16, "streaming_cpu_s": 0.2, "streaming_s": 1, "streaming_frames": 1000},
    {"round": 0, "turn": 100, "chats": 16, "streaming_cpu_s": 0.3, "streaming_s": 1, "streaming_frames": 1000},
    {"round": 1, "turn": 1, "chats": 16, "streaming_cpu_s": 0.0, "streaming_s": 1, "streaming_frames": 10},
    {"round": 1, "turn": 100, "chats": 16},
]


def test_ratios_are_those_within_a_round() -> None:
    _, page = chat_report.summarise(ROUNDS)
    assert page.ratio == pytest.approx((0.99 + 1.0) / 2)
    assert (page.first_token_p50_ms, page.first_token_p99_ms) == pytest.approx((30, 200))
    assert page.first_token_ratio == pytest.approx(3.0)
    assert page.largest_gap_worst_ms == pytest.approx(200)


def test_idle_time_is_not_counted_as_the_work_for_tokens() -> None:
    direct, page = chat_report.summarise(ROUNDS)
    assert page.app_cpu_us_per_token == pytest.approx((0.04 - 0.01 + 0.02 - 0.01) / 2000 * 1e6)
    assert direct.app_cpu_us_per_token is None


def test_a_late_turn_is_compared_with_the_first_of_the_same_round() -> None:
    found = chat_report.turn_cost([{"idle_share": 0.0, **one} for one in TURNS])
    assert found == pytest.approx({"turn": 100, "first_us": 200, "late_us": 300, "ratio": 1.5})
    assert chat_report.turn_cost(TURNS[3:]) is None


def test_goals_are_named_as_reached_or_missed() -> None:
    verdicts = {what: good for what, _, good in chat_report.goals(chat_report.summarise(ROUNDS), None)}
    assert verdicts == {
        "32 chats: at least 98 % of direct": True,
        "32 chats: first token at most 1.5x direct's": False,
        "32 chats: at most 25 us of the app per token": True,
    }


def test_the_engine_makes_tokens_at_the_rates_that_were_given() -> None:
    rates = Curve.parse("1:500,32:9000,128:27000")
    assert [rates.at(count) for count in (1, 32, 128, 500)] == pytest.approx([500, 9000, 27000, 27000])
    assert 9000 < rates.at(64) < 27000
    assert Curve.parse("400").at(7) == 400


def task(ts: float, dur: float, tdur: float, name: str = "ThreadControllerImpl::RunTask") -> dict[str, Any]:
    return {"ph": "X", "name": name, "ts": ts, "dur": dur, "tdur": tdur, "pid": 1, "tid": 1}


def test_a_trace_tells_how_busy_the_main_thread_was_between_the_marks() -> None:
    mark = {"ph": "R", "pid": 1, "tid": 1}
    found = read_trace(
        [
            {**mark, "name": "bench-first", "ts": 1_000_000},
            {**mark, "name": "bench-end", "ts": 2_000_000},
            task(500_000, 400_000, 400_000),  # before
            task(1_100_000, 200_000, 60_000),
            task(1_150_000, 100_000, 50_000),  # inside the one before
            task(1_160_000, 80_000, 20_000, "Layout"),
            {**task(1_500_000, 300_000, 300_000), "tid": 2},
            task(1_900_000, 50_000, 50_000),
        ]
    )
    assert found["busy"] == pytest.approx(0.25)
    assert found["busy_cpu"] == pytest.approx(0.11)
    assert (found["longest_task_ms"], found["longest_task_cpu_ms"]) == (200, 60)
    assert found["tasks_over_50_ms"] == 1
    assert found["spent_ms"]["Layout"] == 80


def seen(**more: Any) -> dict[str, Any]:
    found = {"page": "page", "turns": 50, "first_text_ms": 40.0, "painted_ms": 70.0, "finished": True, "answer_s": 5.0}
    found |= {"busy": 0.2, "busy_cpu": 0.1, "longest_task_ms": 40.0, "longest_task_cpu_ms": 30.0, "tasks_over_50_ms": 0}
    return {**found, "spent_ms": {}, **more}


def test_what_was_seen_in_the_browser_is_held_against_its_goals() -> None:
    entries = medians([Seen(**seen()), Seen(**seen(busy=0.3)), Seen(**seen(page="naive", finished=False))])
    assert [(what.split(": ")[1], good) for what, _, good in goals(entries)] == [
        ("first text at most 60 ms later", False),
        ("main thread under 25 % busy", False),
        ("never blocked for over 50 ms", True),
    ]
    assert not entries[1]["finished"]


def test_the_time_until_it_is_stopped_is_held_against_its_goal() -> None:
    some = [chat_stop.Stopped("click", 50, page_ms, 12.0) for page_ms in (40.0, 60.0, 130.0)]
    found = chat_stop.goals([*some, chat_stop.Stopped("Escape", 50, 101.0, 15.0)])
    assert [(text, good) for _, text, good in found] == [
        ("60 ms (worst 130); the engine knows after 12 ms", True),
        ("101 ms (worst 101); the engine knows after 15 ms", False),
    ]


@pytest.mark.slow
def test_page_and_chart_are_written_from_the_results(tmp_path: Path) -> None:
    results = {
        "machine": {"processor": "a processor", "gpus": []},
        "command": "python -m benchmarks.chat",
        "tokens": 256,
        "load_average_before": [1.0, 1, 1],
        "load_average_after": [2.0, 1, 1],
        "setup": {"engine": "vllm"},
        "rounds": ROUNDS,
        "turns": [{"idle_share": 0.0, **one} for one in TURNS],
        "browser": [seen()],
        "stops": [{"way": "click", "turns": 50, "page_ms": 40.0, "engine_ms": 12.0}],
    }
    (tmp_path / "chat_gpu.json").write_text(json.dumps(results), encoding="utf-8")
    chat.main(["--draw", str(tmp_path / "chat_gpu.json")])
    page = (tmp_path / "chat_gpu.md").read_text(encoding="utf-8")
    assert "| 32 | **vLLM Deck's page** | 745 | 99.5% | 30.0 | 3.00x, +20.0 | 200.0 | 125 (200) | 20.0 |" in page
    assert "| a frame at turn 100 costs at most 1.1x one at turn 1 | 1.50x | **missed** |" in page
    assert "stopped at most 100 ms after the click | 40 ms (worst 40); the engine knows after 12 ms | reached |" in page
    assert "vllm-playground is not installed here" in page
    assert "![ratio to direct, first token, processor time](chat_gpu.png)" in page
    pytest.importorskip("matplotlib")
    assert (tmp_path / "chat_gpu.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_that_is_written_down_has_no_paths_of_this_machine() -> None:
    argv = ["--real", "/tmp/models/Qwen2-0.5B-Instruct", "--levels", "1,32", "--out", "/tmp/out"]
    assert chat.command_of(argv) == "python -m benchmarks.chat --real Qwen2-0.5B-Instruct --levels 1,32 --out out"
