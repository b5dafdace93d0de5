"""What the page and the command line ask of a log: its end, what is new, hits, warnings."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import VLLM_LOGS

from server_manager.log_file import split_lines
from server_manager.log_level import Level, LevelReader
from server_manager.log_query import LogAnswer, LogQuery, ask_log
from server_manager.log_rotation import rotate, set_aside
from server_manager.run_log import RunLog
from server_manager.secret_mask import SecretMask

TOKEN = "hf_" + "AbCdEfGhIj" * 3
REAL_LOGS = sorted(VLLM_LOGS.glob("*.log"))


def ask(path: Path, **query: object) -> LogAnswer:
    return ask_log(RunLog(path), LogQuery(**query), SecretMask((), {}))  # type: ignore[arg-type]


def texts(answer: LogAnswer) -> list[str]:
    return [line.text for line in answer.lines]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.log"


def test_a_log_that_is_not_there_is_empty(path: Path) -> None:
    assert ask(path) == ask(path, search="x") == LogAnswer()


@pytest.mark.parametrize("real", REAL_LOGS, ids=lambda path: path.stem)
def test_the_whole_of_a_real_log_is_what_a_terminal_would_show(real: Path) -> None:
    answer = ask(real, tail=20_000)
    assert texts(answer) + ([answer.rest] if answer.rest else []) == split_lines(real.read_bytes())


@pytest.mark.parametrize("real", REAL_LOGS, ids=lambda path: path.stem)
def test_following_a_real_log_that_grows_gives_each_line_once(path: Path, real: Path) -> None:
    content = real.read_bytes()
    cursor, found = "", list[str]()
    path.write_bytes(b"")
    for cut in range(0, len(content) + 997, 997):
        path.write_bytes(content[:cut])
        answer = ask(path, tail=20_000, since=cursor)
        assert answer.continues or not cursor or cut <= 997 * 2
        found = found + texts(answer) if answer.continues else texts(answer)
        cursor = answer.cursor
    assert found + ([answer.rest] if answer.rest else []) == split_lines(content)


def test_only_what_is_new_is_sent(path: Path) -> None:
    path.write_text("one\ntwo\nthr")
    first = ask(path)
    assert (texts(first), first.rest, first.continues) == (["one", "two"], "thr", False)
    assert texts(ask(path, since=first.cursor)) == []
    with path.open("a") as log:
        log.write("ee\nfour\n")
    second = ask(path, since=first.cursor)
    assert (texts(second), second.rest, second.continues) == (["three", "four"], "", True)


def test_following_goes_on_across_rotations(path: Path) -> None:
    path.write_text("".join(f"line {n}\n" for n in range(1000)))
    first = ask(path, tail=5)
    assert texts(first) == [f"line {n}" for n in range(995, 1000)]
    rotate(path)
    with path.open("a") as log:
        log.write("line 1000\n")
    rotate(path)
    second = ask(path, since=first.cursor)
    assert (texts(second), second.continues) == (["line 1000"], True)
    assert second.run == first.run


def test_a_new_run_stands_for_itself(path: Path) -> None:
    path.write_text("vLLM Deck 1: old\nline\n")
    first = ask(path)
    set_aside(path)
    path.write_text("vLLM Deck 2: new\n")
    second = ask(path, since=first.cursor)
    assert (texts(second), second.continues) == (["vLLM Deck 2: new"], False)
    assert second.run != first.run


def test_who_was_away_for_long_gets_the_end(path: Path) -> None:
    path.write_text("begin\n")
    first = ask(path)
    with path.open("a") as log:
        log.writelines(f"line {n}\n" for n in range(5000))
    second = ask(path, tail=100, since=first.cursor)
    assert not second.continues
    assert texts(second) == [f"line {n}" for n in range(4900, 5000)]
    with path.open("a") as log:
        log.write("x" * 9_000_000 + "\nlast\n")
    assert texts(ask(path, tail=1, since=second.cursor)) == ["last"]


@pytest.mark.parametrize("cursor", ["", "nonsense", "0.0-5-", "a.b-99999999999999-1", "-1--1", "x" * 99])
def test_a_cursor_that_means_nothing_is_as_none(path: Path, cursor: str) -> None:
    path.write_text("one\n")
    assert texts(ask(path, since=cursor)) == ["one"]
    assert texts(ask(path, since=cursor, search="one")) == ["one"]


def test_search_tells_line_numbers_as_an_editor_counts(path: Path) -> None:
    path.write_text("first\n\n\nNeedle here\n 10%\r 20% needle\r 100%\nlast NEEDLE.\r\n")
    answer = ask(path, search="needle")
    assert [(line.number, line.text) for line in answer.lines] == [
        (4, "Needle here"),
        (5, " 20% needle"),
        (6, "last NEEDLE."),
    ]
    assert answer.hits == 3
    assert ask(path, search="nee.le").hits == 0, "it is no regular expression"


def test_search_in_chinese_and_in_what_is_no_utf8(path: Path) -> None:
    path.write_bytes("模型加载完成\n".encode() + b"\xff\xfe odd\n")
    assert texts(ask(path, search="加载")) == ["模型加载完成"]
    assert len(ask(path, search="odd").lines) == 1


def test_many_hits_are_bounded_in_the_middle(path: Path) -> None:
    path.write_text("".join(f"hit {n}\nother\n" for n in range(1, 10_001)))
    answer = ask(path, search="hit", tail=10)
    assert answer.hits == 10_000
    assert answer.first_hits == 5
    assert [line.text for line in answer.lines] == [
        *(f"hit {n}" for n in range(1, 6)),
        *(f"hit {n}" for n in range(9_996, 10_001)),
    ]
    assert answer.lines[-1].number == 19_999


def test_search_goes_on_with_what_is_new(path: Path) -> None:
    path.write_text("hit 1\nother\nhit unfini")
    first = ask(path, search="hit")
    assert texts(first) == ["hit 1"]
    with path.open("a") as log:
        log.write("shed\nhit 4\n")
    second = ask(path, search="hit", since=first.cursor)
    assert [(line.number, line.text) for line in second.lines] == [(3, "hit unfinished"), (4, "hit 4")]
    assert (second.hits, second.continues) == (2, True)


def test_search_finds_what_lies_in_every_part(path: Path) -> None:
    for turn in range(3):
        with path.open("a") as log:
            log.writelines(f"turn {turn} line {n}\n" for n in range(1000))
        rotate(path)
    answer = ask(path, search="line 999")
    assert texts(answer) == [f"turn {turn} line 999" for turn in range(3)]
    assert [line.number for line in answer.lines] == [1000, 2000, 3000]


def test_around_a_hit(path: Path) -> None:
    path.write_text("".join(f"line {n}\n" for n in range(100)))
    hit = ask(path, search="line 50").lines[0]
    around = ask(path, begin=hit.at - 20, tail=7)
    assert texts(around) == [f"line {n}" for n in range(47, 54)]
    assert any(line.at == hit.at for line in around.lines)
    more = ask(path, since=around.cursor, tail=100)
    assert (texts(more)[0], more.continues) == ("line 54", True)
    assert texts(ask(path, begin=10**9)) == []


def test_secrets_are_masked_and_cannot_be_searched_for(path: Path) -> None:
    path.write_text(f"using token {TOKEN}\nplain\n")
    assert texts(ask(path)) == ["using token hf_…(masked)", "plain"]
    assert texts(ask(path, search="token")) == ["using token hf_…(masked)"]
    assert texts(ask(path, search=TOKEN[:9])) == []


LEVELS = """\
(EngineCore pid=12) INFO 11-22 10:09:42 [model.py:733] fine, though it says ERROR
(EngineCore pid=12) WARNING 11-22 10:09:42 [model.py:733] hm
(Worker pid=3) ERROR 11-22 10:09:42 [core.py:1] Traceback (most recent call last):
(Worker pid=3) ERROR 11-22 10:09:42 [core.py:1]   File "x.py"
(APIServer pid=12) INFO 11-22 10:09:42 [core.py:1] going on
(APIServer pid=12) Traceback (most recent call last):
(APIServer pid=12)   File "/a.py", line 1, in main
(APIServer pid=12)     raise ValueError("x")
(APIServer pid=12) ValueError: x
(APIServer pid=12) something after it
INFO:     Started server process [5]
WARNING:  Invalid HTTP request received.
ERROR:    [Errno 98]
/x/y.py:12: FutureWarning: old
[rank0]:[W1122 10:09:42.123456789 ProcessGroup.cpp:1] Warning
RuntimeError: CUDA error
2026-11-25 04:28:14,123 WARNING server_manager.x: a full disk
2026-11-25 04:28:14,123 INFO server_manager.x: fine"""


def test_levels() -> None:
    reader = LevelReader()
    i, w, e = Level.INFO, Level.WARNING, Level.ERROR
    found = [reader.of(line.encode()) for line in LEVELS.split("\n")]
    assert found == [i, w, e, e, i, e, e, e, e, i, i, w, e, w, w, e, w, i]


def test_only_warnings_and_errors(path: Path) -> None:
    path.write_text("".join(f"INFO 11-22 10:09:42 [x.py:1] line {n}\n" for n in range(5000)) + LEVELS + "\n")
    answer = ask(path, warnings=True)
    assert answer.hits == 13
    assert "INFO" not in {line.text.split()[0] for line in answer.lines}
    assert answer.lines[0].number == 5002
    assert [line.text for line in ask(path, warnings=True, search="full").lines] == [
        "2026-11-25 04:28:14,123 WARNING server_manager.x: a full disk"
    ]


@pytest.mark.parametrize("real", REAL_LOGS, ids=lambda path: path.stem)
def test_a_filter_finds_the_same_as_reading_all(real: Path) -> None:
    everything = ask(real, tail=20_000)
    wanted = [line.text for line in everything.lines if line.level is not Level.INFO]
    assert texts(ask(real, tail=20_000, warnings=True)) == wanted
    assert texts(ask(real, tail=20_000, search="pid=")) == [t for t in texts(everything) if "pid=" in t]
