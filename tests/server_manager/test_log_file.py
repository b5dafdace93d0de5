"""Reading a log of any shape while it grows."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import VLLM_LOGS

from server_manager.log_file import MAX_LINE_CHARS, LogFollower, split_lines, tail

MIXED = "one\r\ntwo\rthree\n\n\r\nvier €\x1b[32m grün\x1b[0m\r\n\rfünf\n".encode()
LINES = ["one", "two", "three", "vier € grün", "fünf"]


def test_lines_end_as_on_a_terminal() -> None:
    assert split_lines(MIXED) == LINES


@pytest.mark.parametrize("cut", range(len(MIXED) + 1))
def test_a_log_that_grows_by_any_two_pieces(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log"
    follower = LogFollower(path)
    assert follower.read_new() == [], "no file yet"
    path.write_bytes(MIXED[:cut])
    found = follower.read_new()
    assert follower.offset == cut
    path.write_bytes(MIXED)
    assert found + follower.read_new() == LINES
    assert follower.offset == len(MIXED)


def test_a_log_that_grows_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = LogFollower(path)
    found = []
    with path.open("ab", buffering=0) as log:
        for byte in MIXED:
            log.write(bytes([byte]))
            found += follower.read_new()
    assert found == LINES


def test_an_unfinished_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"whole\nhal")
    follower = LogFollower(path)
    assert follower.read_new() == ["whole"]
    assert follower.read_new() == []
    path.write_bytes(b"whole\nhalf\n")
    assert follower.read_new() == ["half"]


def test_bytes_that_are_no_utf8_are_shown_as_such(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a \xff\xfe b\n\xe2\x82\n")
    assert LogFollower(path).read_new() == ["a �� b", "�"]


def test_a_line_of_a_megabyte_is_cut_and_the_next_one_is_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1_000_000 + b"\nafter\n")
    follower = LogFollower(path)
    found = []
    while new := follower.read_new() or follower.offset < path.stat().st_size:
        found += new if isinstance(new, list) else []
    assert found[-1] == "after"
    assert {len(line) for line in found[:-1]} == {MAX_LINE_CHARS}
    assert [len(line) for line in tail(path, 5)] == [MAX_LINE_CHARS, 5]


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 5_000_000)
    follower = LogFollower(path)
    while follower.offset < 5_000_000:
        follower.read_new()
    assert len(follower._rest) < 2_000_000


def test_a_file_that_is_emptied_or_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old line\nunfinished")
    follower = LogFollower(path)
    assert follower.read_new() == ["old line"]
    path.write_bytes(b"new\n")
    assert follower.read_new() == ["new"]
    assert follower.offset == 4
    path.unlink()
    assert follower.read_new() == []
    path.write_bytes(b"x\n")
    assert follower.read_new() == ["x"]


@pytest.mark.parametrize("width", [1, 63, 199, 200, 201, 4095])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_tail_gives_exactly_the_last_lines(tmp_path: Path, width: int, ending: str) -> None:
    path = tmp_path / "log"
    lines = [f"{index:0{width}}" for index in range(3000)]
    path.write_bytes("".join(line + ending for line in lines).encode())
    for count in (0, 1, 2, 100, 500):
        assert tail(path, count) == lines[len(lines) - count :]


def test_tail_at_every_position_of_a_blocks_edge(tmp_path: Path) -> None:
    path = tmp_path / "log"
    end = b"".join(b"%07d\r\n" % index for index in range(64 * 1024 // 9))
    for shift in range(24):
        path.write_bytes(b"first\r\n" + b"y" * shift + b"\r\n" + end)
        assert tail(path, 7281) == split_lines(path.read_bytes())[-7281:]


def test_tail_of_what_is_short_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert tail(path, 10) == []
    path.write_bytes(b"a\nb")
    assert tail(path, 10) == ["a", "b"]
    assert tail(path, -1) == []


@pytest.mark.parametrize("path", sorted(VLLM_LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_real_logs_read_in_pieces_lose_nothing(tmp_path: Path, path: Path) -> None:
    data = path.read_bytes()
    copy = tmp_path / "log"
    follower = LogFollower(copy)
    found = []
    with copy.open("ab", buffering=0) as log:
        for start in range(0, len(data), 997):
            log.write(data[start : start + 997])
            found += follower.read_new()
        log.write(b"\n")
    assert found + follower.read_new() == split_lines(data)
    assert tail(path, 20) == split_lines(data)[-20:]
