"""Load tests as documents, and beside each other."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from server_manager.diagnosis import Diagnosis
from server_manager.errors import SpecError, UnknownLoadTest
from server_manager.load_test.chart import draw_png
from server_manager.load_test.compare import compare
from server_manager.load_test.export import as_csv, as_json, as_markdown, file_name
from server_manager.load_test.results import histogram
from server_manager.load_test.run import (
    Environment,
    Failure,
    Level,
    LoadRun,
    LoadState,
    Metrics,
    Note,
    Row,
    RunKind,
    Samples,
    SlaResult,
)  # fmt: skip
from server_manager.load_test.settings import LoadSettings, settings_from
from server_manager.load_test.store import RunStore, decode, new_id
from server_manager.phrases import Phrase


def level(concurrency: int, speed: float = 1.0) -> Level:
    metrics = Metrics(
        completed=32, failed=1, duration_s=4.0, request_throughput=8 * speed, output_throughput=800 * speed,
        total_token_throughput=4000 * speed, total_input_tokens=1, total_output_tokens=2,
        mean_ttft_ms=20 / speed, p50_ttft_ms=19 / speed, p90_ttft_ms=30 / speed, p99_ttft_ms=40 / speed,
        mean_tpot_ms=8, p50_tpot_ms=8, p90_tpot_ms=9, p99_tpot_ms=10, p50_e2el_ms=500, p99_e2el_ms=900,
    )  # fmt: skip
    return Level(
        str(concurrency), concurrency, None, 32, 1, LoadState.DONE, metrics=metrics, command="vllm bench serve --x",
        warnings=(Note("requests_failed", "1 of 33 requests failed: Bad Request (1)."),),
        ttft_histogram=histogram([18.0, 19.0, 40.0]), samples=Samples((0.0, 1.0), gpu_utilization=(None, 90.0)),
    )  # fmt: skip


def run(name: str = "a | b", speed: float = 1.0, **settings: object) -> LoadRun:
    return LoadRun(
        new_id(), name, RunKind.TEST, 1.7e9, settings_from(settings), LoadState.DONE, rows=(
            Row("qwen", LoadState.DONE, load_s=12.5, gpu_bytes=2**30, levels=(level(1, speed), level(8, speed))),
            Row("broken", LoadState.FAILED, error=Failure("It did not start.", "Look at its log.")),
        ), environment=Environment("0.32.0", ("H100", "H100")),
    )  # fmt: skip


def test_json_holds_everything() -> None:
    document = json.loads(as_json(run()))
    assert (document["format"], document["rows"][0]["levels"][1]["metrics"]["p99_ttft_ms"]) == (
        "vllm-deck-load-test",
        40,
    )
    assert document["rows"][0]["levels"][0]["samples"]["gpu_utilization"] == [None, 90.0]


def test_csv_has_a_line_for_each_level() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(run("a, b")))))
    assert [line["level"] for line in lines] == ["1", "8"]
    assert (lines[0]["run"], lines[0]["output_throughput"], lines[0]["mean_itl_ms"]) == ("a, b", "800.0", "")


def test_markdown_has_figures_method_failures_and_lines_to_repeat_them() -> None:
    text = as_markdown(replace(run(), sla=SlaResult(40, words="8 requests at a time keep it.")))
    assert text.startswith("# a \\| b\n")
    assert "| 8 | 8.00 | 800.0 | 19.0 | 40.0 |" in text
    for part in ("2 × H100", "vLLM 0.32.0", "random prompts of 512 tokens", "loaded in 12.5 s", "It did not start.",
                 "1 of 33 requests failed", "vllm bench serve --x", "8 requests at a time"):  # fmt: skip
        assert part in text


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_pictures(dark: bool) -> None:
    ladder = replace(run("梯子"), rows=(run().rows[0], replace(run().rows[0], model="other")))
    for each in (run(), ladder, replace(run(), rows=())) if dark else (run(),):
        picture = draw_png(each, dark=dark)
        assert picture.startswith(b"\x89PNG\r\n")
        assert len(picture) > 20_000


def test_file_names() -> None:
    assert file_name(run("Qwen2 / 7B: a test"), "csv").startswith("Qwen2-7B-a-test-2023")
    assert file_name(run("../../etc"), "md").startswith("etc-")
    assert file_name(run("负载"), "png").startswith("负载-")


def test_two_runs_beside_each_other() -> None:
    first, second = run("before"), replace(run("after", 1.25), rows=run("after", 1.25).rows[:1])
    found = compare([first, second])
    assert [(column.name, column.model) for column in found.columns] == [
        ("before", "qwen"), ("before", "broken"), ("after", "qwen"),
    ]  # fmt: skip
    eight = next(each for each in found.levels if each.label == "8")
    assert [value.metrics is not None for value in eight.values] == [True, False, True]
    assert eight.differences_percent["output_throughput"] == (0.0, None, 25.0)
    assert eight.differences_percent["p99_ttft_ms"] == (0.0, None, -20.0)
    assert eight.differences_percent["mean_itl_ms"] == (None, None, None)
    assert found.settings_differ == {}
    differing = compare([first, run("longer", input_len=1024)]).settings_differ
    assert differing == {"input_len": (512, 1024)}
    with pytest.raises(SpecError):
        compare([first])


def test_a_kept_run_is_read_as_it_was(tmp_path) -> None:
    store = RunStore(tmp_path / "load-tests")
    assert store.load_all() == []
    phrase = Phrase("plan", {"names": (Phrase("a"), Phrase("b"))})
    broken = replace(run().rows[1], diagnosis=Diagnosis("oom", "It is full", title_phrases=(phrase,)))
    kept = replace(
        run(), rows=(run().rows[0], broken), settings=LoadSettings(request_rates=("inf", 2.0), concurrency=())
    )
    store.save(kept)
    assert store.load(kept.id) == kept
    (store.folder(new_id())).mkdir()  # of one that was deleted half
    unreadable = store.folder(new_id().replace("-", "-", 1))
    unreadable.mkdir(exist_ok=True)
    (unreadable / "run.json").write_text('{"id": ')
    assert store.load_all() == [kept]
    for wrong in ("../../etc", "", new_id()[:-6] + "000000"):
        with pytest.raises(UnknownLoadTest):
            store.load(wrong)
    store.delete(kept.id)
    assert store.load_all() == []
    assert decode(b'{"id":"x","name":"n","kind":"sla","created_at":1,"settings":{}}').rows == ()
