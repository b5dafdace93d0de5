"""The task that looks after the sizes of all logs."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from processes import eventually

from server_manager import log_keeper
from server_manager.log_keeper import LogKeeper
from server_manager.server_state import ServerState, ServerStatus
from server_manager.settings import Settings


class Logs:
    """A folder of logs, servers of any state, and the keeper over them."""

    def __init__(self, tmp_path: Path) -> None:
        self.settings = Settings(
            tmp_path, tmp_path / "models", ("vllm",), log_part_bytes=10_000, logs_total_bytes=100_000, log_interval=0.01
        )
        self.folder = self.settings.logs_dir
        self.folder.mkdir()
        self.states: dict[str, ServerState] = {}
        self.notices: list[str] = ["something else"]
        self.keeper = self.made(self.settings)

    def made(self, settings: Settings) -> LogKeeper:
        return LogKeeper(settings, lambda: {n: ServerStatus(n, s) for n, s in self.states.items()}, self.notices)

    def write(self, name: str, size: int) -> None:
        (self.folder / name).write_bytes(b"x" * 99 + b"\n" + bytes(size - 100))

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path)


async def test_long_logs_of_live_servers_are_rotated(logs: Logs) -> None:
    for name, state in (("up", ServerState.READY), ("asleep", ServerState.ASLEEP), ("down", ServerState.STOPPED)):
        logs.states[name] = state
        logs.write(f"{name}.log", 12_000)
    logs.states["small"] = ServerState.READY
    logs.write("small.log", 9_000)
    await logs.keeper.look()
    assert logs.names() == ["asleep.log", "asleep.log.1", "down.log", "small.log", "up.log", "up.log.1"]
    assert logs.notices == ["something else"]


async def test_a_start_keeps_its_log_whole_unless_that_grows_without_end(logs: Logs) -> None:
    logs.states["m"] = ServerState.STARTING
    logs.write("m.log", 70_000)
    await logs.keeper.look()
    assert logs.names() == ["m.log"]
    logs.write("m.log", 90_000)
    await logs.keeper.look()
    assert logs.names() == ["m.log", "m.log.1"]


async def test_all_logs_together_are_bounded(logs: Logs) -> None:
    logs.states["up"] = ServerState.READY
    logs.write("up.log", 9_000)
    for name in ("a.log", "b.log", "c.log.prev"):
        logs.write(name, 60_000)
    await logs.keeper.look()
    assert "up.log" in logs.names()
    assert sum(path.stat().st_size for path in logs.folder.iterdir()) <= 100_000


async def test_a_full_disk_is_told_once_and_tried_again(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log_keeper, "rotate", full)
    logs.states["up"] = ServerState.READY
    logs.write("up.log", 12_000)
    for _ in range(3):
        await logs.keeper.look()
    assert len(logs.notices) == 2
    assert "up.log cannot be rotated: No space left on device." in logs.notices[1]
    monkeypatch.undo()
    await logs.keeper.look()
    assert logs.names() == ["up.log", "up.log.1"]
    assert logs.notices == ["something else"]


async def test_it_goes_on_looking_whatever_happens(logs: Logs) -> None:
    logs.states["up"] = ServerState.READY
    calls: list[int] = []

    def statuses() -> dict[str, ServerStatus]:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        return {"up": ServerStatus("up", ServerState.READY)}

    keeper = LogKeeper(replace(logs.settings), statuses, [])
    logs.write("up.log", 12_000)
    keeper.start()
    await eventually(lambda: "up.log.1" in logs.names(), "a rotation")
    await keeper.stop()
    assert len(calls) >= 2


async def test_no_folder_of_logs_yet(tmp_path: Path) -> None:
    notices: list[str] = []
    settings = Settings(tmp_path / "nosuch", tmp_path, ("vllm",))
    await LogKeeper(settings, lambda: {"m": ServerStatus("m", ServerState.READY)}, notices).look()
    assert notices == []
