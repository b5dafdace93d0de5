"""Logs that are rotated while somebody writes them: nothing lost, nothing twice, and a limit that holds."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import VLLM_LOGS

from server_manager import log_rotation
from server_manager.diagnosis.log_source import diagnose_file
from server_manager.log_file import LogFollower, tail
from server_manager.log_rotation import bound_total, rotate, set_aside
from server_manager.run_file import open_run
from server_manager.run_log import RunLog

WRITER = """
import os, sys, time
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
number = 0
while number % 1000 or not os.path.exists(sys.argv[2]):
    os.write(log, b"line %08d of the log, as long as most lines of vLLM are, or nearly so\\n" % number)
    number += 1
    if number % 1000 == 0:
        time.sleep(0.002)  # else the reader of the test could not keep pace
os.write(log, b"written %d\\n" % number)
"""


def numbers(lines: list[str]) -> list[int]:
    return [int(match[1]) for line in lines if (match := re.match(r"line (\d{8}) ", line))]


def whole_run(path: Path) -> list[str]:
    """Every line that can still be read, through the eyes of a follower that comes last."""
    follower, found = LogFollower(path), []
    while new := follower.read_new():
        found += new
    return found


def write_lines(path: Path, first: int, count: int) -> None:
    with path.open("ab") as log:
        log.writelines(b"line %08d %s\n" % (number, b"x" * 60) for number in range(first, first + count))


@pytest.fixture(params=["collapse", "empty"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Both ways of cutting the front off: that of ext4 and XFS, and that of all other file systems."""
    if request.param == "empty":
        monkeypatch.setattr(log_rotation, "_collapse", lambda descriptor, size: False)
    else:
        probe = tmp_path / "probe"
        probe.write_bytes(bytes(200_000))
        with probe.open("r+b") as file:
            if not log_rotation._collapse(file.fileno(), 65_536):
                pytest.skip("this file system cannot cut a file's front off")
    return str(request.param)


def test_moved_lines_stay_in_order(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "m.log"
    for turn in range(3):
        write_lines(path, turn * 1000, 1000)
        assert rotate(path) > 60_000
        assert path.stat().st_size < 4096
    assert sorted(file.name for file in tmp_path.glob("m.log*")) == ["m.log", "m.log.1", "m.log.2", "m.log.3"]
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("m.log.*")} == {0o600}
    assert numbers(whole_run(path)) == list(range(3000))
    assert numbers(tail(path, 2500)) == list(range(500, 3000))


@pytest.mark.slow
def test_a_fast_writer_loses_nothing_where_the_kernel_can_cut(tmp_path: Path, cut: str) -> None:
    """Bursts of lines as fast as a process can write them, rotated all the while, with a follower beside."""
    path, stop = tmp_path / "m.log", tmp_path / "stop"
    path.touch()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(stop)])
    follower, found, rotations = LogFollower(path), list[str](), 0
    try:
        while rotations < 60:
            rotations += rotate(path) > 0
            end = RunLog(path).extent().end
            while follower.offset < end:  # it keeps pace: else parts would be dropped before it comes to them
                found += follower.read_new()
    finally:
        stop.touch()
        writer.wait()
    while new := follower.read_new():
        found += new
    assert found[-1].startswith("written ")
    seen, count = numbers(found), int(found[-1].split()[1])
    assert len(seen) == len(set(seen)), "no line twice"
    assert seen == sorted(seen)
    lost = count - len(seen)
    print(f"{cut}: {rotations} rotations, {lost} of {count} lines lost")
    if cut == "collapse":
        assert lost == 0
    else:  # what was written between the last read and the cut: a few lines, more if the machine is busy just then
        assert lost < count // 20


def test_a_follower_misses_and_repeats_nothing_across_rotations(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "m.log"
    follower, found = LogFollower(path), list[str]()
    for turn in range(12):
        write_lines(path, turn * 100, 100)
        if turn % 2:
            rotate(path)
        if turn % 3 == 0:  # so it sees some rotations at once, and some two at a time
            found += follower.read_new()
    assert numbers(found + follower.read_new()) == list(range(1200))
    assert follower.offset == RunLog(path).extent().end


def test_beginning_of_a_run_is_kept_when_parts_are_dropped(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "m.log"
    path.write_text("vLLM Deck 2026-11-25T04:28:14+00:00: vllm serve m\n")
    run = RunLog(path).extent().run
    for turn in range(7):
        write_lines(path, turn * 1000, 1000)
        rotate(path)
    lines = whole_run(path)
    assert lines[0].startswith("vLLM Deck 2026-11-25")
    dropped = [line for line in lines if line.startswith("[vLLM Deck dropped")]
    assert len(dropped) == 1
    seen = numbers(lines)
    assert seen[:100] == list(range(100))
    assert seen[-3000:] == list(range(4000, 7000))
    assert numbers(tail(path, 20_000))[-3000:] == list(range(4000, 7000))
    extent = RunLog(path).extent()
    assert extent.run == run, "it is the same run still"
    # Position and content agree after all that: the last line is where it says.
    last = RunLog(path).read(extent.end - 75, 75)
    assert last.data == b"line %08d %s\n" % (6999, b"x" * 60)
    assert extent.end == 50 + 7000 * 75


def test_a_follower_that_slept_too_long_goes_on_where_there_is_something(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "m.log"
    write_lines(path, 0, 100)
    follower = LogFollower(path)
    assert len(follower.read_new()) == 100
    for turn in range(6):
        write_lines(path, 100 + turn * 1000, 1000)
        rotate(path)
    seen = numbers(follower.read_new())
    assert seen == sorted(set(seen))
    assert seen[-2500:] == list(range(3600, 6100))


def test_a_small_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.log"
    path.write_text("one line\n")
    assert rotate(path) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["m.log"]


class FullDisk:
    """``os.open`` works, writing does not."""

    def __call__(self, *_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.log"
    write_lines(path, 0, 1000)
    monkeypatch.setattr(log_rotation, "_copy", FullDisk())
    with pytest.raises(OSError, match="No space left"):
        rotate(path)
    assert [file.name for file in tmp_path.iterdir()] == ["m.log"]
    assert numbers(whole_run(path)) == list(range(1000))
    monkeypatch.undo()
    assert rotate(path) > 0
    assert numbers(whole_run(path)) == list(range(1000))


def test_a_disk_that_fills_up_in_the_last_moment_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.log"
    write_lines(path, 0, 1000)
    copy, calls = log_rotation._copy, []

    def copy_once(*args: object) -> int:
        calls.append(args)
        return copy(*args) if len(calls) == 1 else FullDisk()()  # type: ignore[arg-type]

    monkeypatch.setattr(log_rotation, "_copy", copy_once)
    monkeypatch.setattr(log_rotation, "_collapse", lambda descriptor, size: False)
    with pytest.raises(OSError, match="No space left"):
        rotate(path)
    assert numbers(whole_run(path)) == list(range(1000))


def test_the_run_before_keeps_its_parts_and_the_one_before_that_goes(tmp_path: Path) -> None:
    path = tmp_path / "m.log"
    write_lines(path, 0, 1000)
    rotate(path)
    write_lines(path, 1000, 1000)
    run = RunLog(path).extent().run
    set_aside(path)
    assert not path.exists()
    path.write_text("a new run\n")
    previous = Path(f"{path}.prev")
    assert numbers(whole_run(previous)) == list(range(2000))
    assert RunLog(previous).extent().run == run != RunLog(path).extent().run
    set_aside(path)
    assert whole_run(previous) == ["a new run"]
    assert [file.name for file in tmp_path.iterdir()] == ["m.log.prev"]
    set_aside(path)  # nothing to set aside: the run before stays
    assert whole_run(previous) == ["a new run"]


def test_a_link_in_place_of_the_log_is_not_touched(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("not ours\n")
    (tmp_path / "m.log").symlink_to(target)
    set_aside(tmp_path / "m.log")
    assert (tmp_path / "m.log").is_symlink()


def test_a_run_that_begins_during_a_rotation_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ended and was started again within the second that the copy took."""
    path = tmp_path / "m.log"
    write_lines(path, 0, 1000)
    copy = log_rotation._copy

    def copy_and_restart(*args: object) -> int:
        position = copy(*args)  # type: ignore[arg-type]
        set_aside(path)
        path.write_text("a new run\n" * 1000)
        return position

    monkeypatch.setattr(log_rotation, "_copy", copy_and_restart)
    assert rotate(path) == 0
    assert path.read_text() == "a new run\n" * 1000
    assert numbers(whole_run(Path(f"{path}.prev"))) == list(range(1000))


def test_total_is_bounded_by_removing_what_was_not_used_for_longest(tmp_path: Path) -> None:
    def log(name: str, size: int, age: int) -> None:
        (tmp_path / name).write_bytes(bytes(size))
        os.utime(tmp_path / name, (10_000 - age, 10_000 - age))

    for name, age in (("old.log", 900), ("old.log.1", 950), ("old.log.prev", 960), ("new.log", 100), ("up.log", 999)):
        log(name, 1000, age)
    log("up.log.prev", 1000, 2000)
    log("up.log.prev.1", 1000, 2000)
    (tmp_path / "notes.txt").write_bytes(bytes(9000))

    def left() -> set[str]:
        return {file.name for file in tmp_path.iterdir()} - {"notes.txt"}

    assert bound_total(tmp_path, 10_000, {"up"}) == []
    bound_total(tmp_path, 6000, {"up"})
    assert left() == {"old.log", "old.log.1", "new.log", "up.log", "up.log.prev", "up.log.prev.1"}
    bound_total(tmp_path, 4500, {"up"})
    assert left() == {"new.log", "up.log", "up.log.prev", "up.log.prev.1"}
    bound_total(tmp_path, 0, {"up"})
    assert left() == {"up.log"}, "the log of a server that is up stays, whatever its size"
    assert bound_total(tmp_path / "nosuch", 0, set()) == []


def test_run_can_be_read_as_one_file(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "m.log"
    for turn in range(7):
        write_lines(path, turn * 1000, 1000)
        rotate(path)
        with open_run(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            content = file.read()
            file.seek(size - 7500)
            assert numbers(file.read().decode().splitlines()) == list(range((turn + 1) * 1000 - 100, (turn + 1) * 1000))
        assert len(content) == size
        assert content.decode().splitlines() == whole_run(path)


def test_cause_is_found_in_a_part_that_was_rotated_out(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "m.log"
    path.write_bytes((VLLM_LOGS / "err_gpu_kv_small.log").read_bytes())
    expected = diagnose_file(path)
    rotate(path)
    write_lines(path, 0, 10)
    assert diagnose_file(path, whole_run=True) == expected is not None


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[list[int]]:
    """Readers of a log in other threads while it is rotated: each checks that what it gets is a stretch of the run."""
    path = tmp_path / "m.log"
    path.touch()
    found: list[int] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen = numbers(tail(path, 500))
            assert seen == list(range(seen[0], seen[-1] + 1)) if seen else True
            found.append(len(seen))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield found
    stop.set()
    for thread in threads:
        thread.join()


def test_readers_beside_a_rotation_see_a_log_without_gaps(tmp_path: Path, cut: str, reading: list[int]) -> None:
    for turn in range(20):
        write_lines(tmp_path / "m.log", turn * 500, 500)
        rotate(tmp_path / "m.log")
    assert reading


@pytest.mark.parametrize("path", sorted(VLLM_LOGS.glob("*.log")), ids=lambda path: path.stem)
def test_real_logs_survive_a_rotation_in_their_middle(tmp_path: Path, path: Path) -> None:
    content = path.read_bytes()
    copy, original = tmp_path / "m.log", tmp_path / "o.log"
    original.write_bytes(content)
    copy.write_bytes(content[: len(content) // 2])
    follower = LogFollower(copy)
    found = follower.read_new()
    rotate(copy)
    with copy.open("ab") as log:
        log.write(content[len(content) // 2 :])
    rotate(copy)
    assert found + follower.read_new() == whole_run(original)
    assert tail(copy, 10_000) == tail(original, 10_000)
