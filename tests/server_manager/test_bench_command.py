"""The bench command's arguments, its lines and its files, without any server."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from server_manager.bench_arguments import bench_settings
from server_manager.bench_report import Progress, Screen, make_folder, succeeded, write_files
from server_manager.command_line import parse
from server_manager.errors import StateDirError
from server_manager.load_test.plan import planned_rows
from server_manager.load_test.run import Failure, LevelProgress, LoadRun, LoadState, Metrics, RunKind
from server_manager.load_test.settings import settings_from
from server_manager.phrases import Phrase

FIGURES = Metrics(4, 0, 2.0, 2.0, 16.0, 48.0, 32, 16, p50_ttft_ms=101.2, p99_ttft_ms=250.4, p50_tpot_ms=9.87)


def ladder(**first: object) -> LoadRun:
    settings = settings_from({"concurrency": [1, 8]})
    rows = planned_rows(("small", "large"), settings, seed=1)
    run = LoadRun("20260101-000000-000000", "x", RunKind.LADDER, 1.0, settings, state=LoadState.RUNNING, rows=rows)
    return replace(run, rows=(replace(rows[0], **first), rows[1]))  # type: ignore[arg-type]


def measured(run: LoadRun) -> LoadRun:
    """All of it."""
    rows = (
        replace(
            row,
            state=LoadState.DONE,
            levels=tuple(replace(level, state=LoadState.DONE, metrics=FIGURES) for level in row.levels),
        )
        for row in run.rows
    )
    return replace(run, state=LoadState.DONE, rows=tuple(rows))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(out: io.StringIO, *runs: LoadRun) -> str:
    progress = Progress(Screen(out))
    for run in runs:
        progress.show(run, None)
    return out.getvalue()


def steps() -> list[LoadRun]:
    """What is seen of a row, from its start to its first figures."""
    loading = {"phase": "weights", "detail": "2/4"}
    up = {"was": "started", "load_s": 12.34, "serve_command": "vllm serve x", "kv_cache_tokens": 23_296}
    begun = ladder(state=LoadState.RUNNING, progress=Phrase("load_starting", loading))
    first, second = begun.rows[0].levels
    asked = [replace(first, state=LoadState.RUNNING, progress=LevelProgress("running", done, 32)) for done in (0, 16)]
    over = replace(first, state=LoadState.DONE, metrics=FIGURES)
    return [begun, *(ladder(state=LoadState.RUNNING, levels=(level, second), **up) for level in (*asked, over))]


def test_where_there_is_no_terminal_each_step_is_one_plain_line() -> None:
    assert told(io.StringIO(), *steps(), *steps()).splitlines()[1:] == [
        "small: loading weights 2/4",
        "small: ready after 12.3 s, KV cache for 23,296 tokens",
        "small at concurrency 1: 0/32 requests",
        "small at concurrency 1: 16.0 tok/s, 2.00 requests/s, TTFT 101 ms (p99 250), TPOT 9.9 ms (p99 –)",
    ]


def test_on_a_terminal_the_present_step_is_written_over() -> None:
    text = told(Terminal(), *steps())
    assert "\r\x1b[Ksmall at concurrency 1: 16/32 requests\r\x1b[Ksmall at concurrency 1: 16.0 tok/s" in text
    assert text.count("\n") == 3


def test_a_failure_is_told_once_with_its_next_step() -> None:
    failed = ladder(state=LoadState.FAILED, error=Failure("small did not start.", "Give it more memory."))
    assert told(io.StringIO(), failed, failed).count("small: FAILED: small did not start. Give it more memory.") == 1


def test_a_reader_that_has_gone_ends_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    screen = Screen(Gone())
    screen.line("one")
    screen.line("two")


def test_only_a_ladder_of_which_all_was_measured_is_a_success() -> None:
    run = measured(ladder())
    assert succeeded(run)
    nothing = replace(FIGURES, completed=0, failed=4)
    silent = replace(run.rows[1], levels=tuple(replace(level, metrics=nothing) for level in run.rows[1].levels))
    assert not succeeded(replace(run, rows=(run.rows[0], silent)))
    assert not succeeded(replace(run, rows=(run.rows[0], replace(run.rows[1], state=LoadState.FAILED))))
    assert not succeeded(replace(run, state=LoadState.STOPPED))


@pytest.mark.slow  # matplotlib
def test_files_of_a_run_of_which_nothing_was_measured_are_written_too(tmp_path: Path) -> None:
    make_folder(tmp_path / "new" / "folder")
    paths = write_files(ladder(state=LoadState.FAILED), tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["run.json", "run.csv", "run.md", "run.png", "run-dark.png"]
    assert json.loads(paths[0].read_text())["format"] == "vllm-deck-load-test"
    with pytest.raises(StateDirError, match="Choose another folder with --out"):
        make_folder(paths[0])


def test_arguments_become_settings() -> None:
    args = parse(["bench", "a", "b", "--out", "x", "--concurrency", "1, 8,32", "--preset", "tutorial"])
    assert (args.names, settings_from(bench_settings(args)).concurrency) == (["a", "b"], (1, 8, 32))
    assert settings_from(bench_settings(args)).output_len == 16
    args = parse(
        ["bench", "a", "--out", "x", "--request-rate", "2,inf", "--goodput", "ttft:500,tpot:50", "--seed", "0"]
    )
    found = settings_from(bench_settings(args))
    assert (found.request_rates, found.concurrency, found.seed) == ((2.0, "inf"), (), 0)
    assert found.goodput == {"ttft": 500.0, "tpot": 50.0}


@pytest.mark.parametrize(
    "wrong",
    [
        ["--concurrency", "one"],
        ["--concurrency", ","],
        ["--request-rate", "fast"],
        ["--goodput", "500"],
        ["--seed", "x"],
    ],
)
def test_what_makes_no_sense_is_refused_at_once(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["bench", "a", "--out", "x", *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err
