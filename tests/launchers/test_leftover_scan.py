"""What servers of a dead app leave is found and ended; what somebody looks after, or somebody else started, is not."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from server_manager import reclaim
from server_manager.errors import UnknownLeftover
from server_manager.launchers.leftovers import SHARED_MEMORY
from server_manager.launchers.process_tree import read_member
from server_manager.leftover_scan import Leftover, look
from server_manager.reclaim import Leftovers, findings_dict
from server_manager.settings import Settings
from server_manager.telemetry.base import DeviceProcess, DeviceSnapshot

from .conftest import Launch, eventually, free_port, is_serving, processes_with_marker

ROOT = Path(__file__).resolve().parents[2]
STRANGER = """
import sys, time
open('/proc/self/comm', 'w').write('VLLM::EngineCor')
print('up', flush=True)
time.sleep(600)
"""


class DeadApp:
    """An app, a server of it, and its guardian; ``facts`` is the server's record."""

    def __init__(self, process: asyncio.subprocess.Process, facts: dict[str, Any]) -> None:
        self.process = process
        self.facts = facts

    @property
    def marker(self) -> str:
        return str(self.facts["marker"])

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def kill_guardian(self) -> None:
        self.signal(signal.SIGSTOP)  # so that it does not start another
        os.kill(self.facts["guardian"], signal.SIGKILL)
        await eventually(lambda: not lives(self.facts["guardian"]), "the guardian is dead")

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.process.wait()


def lives(pid: int) -> bool:
    member = read_member(pid)
    return member is not None and member.alive


StartApp = Callable[..., Awaitable[DeadApp]]


@pytest.fixture
async def start_app(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartApp]:
    """Runs the app of ``app_to_kill.py`` until its server serves; whatever is left is ended after the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = Path(__file__).with_name("app_to_kill.py")
    started: list[DeadApp] = []

    async def start(**fake: object) -> DeadApp:
        port = free_port()
        env = os.environ | {f"FAKE_VLLM_{key.upper()}": str(value) for key, value in fake.items()}
        arguments = (sys.executable, str(script), str(state_dir), str(port), "hold")
        process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE, env=env)
        assert process.stdout is not None
        app = DeadApp(process, json.loads(await process.stdout.readline()))
        started.append(app)
        await eventually(lambda: is_serving(port), "the server listens")
        return app

    yield start
    for app in started:
        if app.process.returncode is None:
            await app.kill()
        await eventually(lambda app=app: not kill_all(app.marker), "all of its processes have gone")
        shutil.rmtree(app.facts["tmpdir"], ignore_errors=True)
        await eventually(lambda app=app: not lives(app.facts["guardian"]), "the guardian has gone")


def kill_all(marker: str) -> list[int]:
    """Those that were still there."""
    pids = processes_with_marker(marker)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def found(app: DeadApp) -> Leftover | None:
    return next((left for left in look(()).leftovers if left.marker == app.marker), None)


def no_servers() -> tuple[str, ...]:
    return ()


async def left_behind(app: DeadApp) -> Leftover:
    """Both the app and the guardian are killed: nobody looks after the server any more."""
    await app.kill_guardian()
    await app.kill()
    left = found(app)
    assert left is not None
    return left


async def test_a_server_whose_app_and_guardian_are_dead_is_found_and_reclaimed(start_app: StartApp) -> None:
    before = set(os.listdir(SHARED_MEMORY))
    app = await start_app(setsid=1, shm=1)
    left = await left_behind(app)
    assert left.name == app.facts["name"]
    assert set(left.pids) == set(processes_with_marker(app.marker))
    assert len(left.pids) == 3  # the API server, EngineCore, and one that left the session
    assert left.rss_bytes > 1 << 20
    leftovers = Leftovers(no_servers, None)
    await leftovers.scan()
    reclaimed = await leftovers.reclaim(left.id)
    assert set(reclaimed.ended_pids) == set(left.pids)
    assert reclaimed.left_pids == ()
    assert not processes_with_marker(app.marker)
    assert not Path(app.facts["tmpdir"]).exists()
    assert not [name for name in set(os.listdir(SHARED_MEMORY)) - before if name.startswith("psm_fake")]
    assert not [each for each in leftovers.latest.leftovers if each.marker == app.marker]


async def test_an_engine_without_its_api_server_is_a_leftover(start_app: StartApp) -> None:
    app = await start_app()
    await app.kill_guardian()
    os.kill(app.facts["pid"], signal.SIGKILL)
    await app.kill()
    left = found(app)
    assert left is not None
    assert [process.name for process in left.processes] == ["VLLM::EngineCor"]
    leftovers = Leftovers(no_servers, None)
    await leftovers.scan()
    await leftovers.reclaim(left.id)
    assert not processes_with_marker(app.marker)


async def test_a_server_of_another_app_that_lives_is_none(start_app: StartApp) -> None:
    app = await start_app()
    assert found(app) is None
    await app.kill_guardian()
    assert found(app) is None  # its app will replace the guardian
    others = [other for other in look(()).foreign if set(other.pids) & set(processes_with_marker(app.marker))]
    assert [other.of_deck for other in others] == [True]


async def test_a_server_with_a_living_guardian_is_none(start_app: StartApp) -> None:
    app = await start_app()
    os.kill(app.facts["guardian"], signal.SIGSTOP)  # as slow as can be
    await app.kill()
    assert processes_with_marker(app.marker)
    assert found(app) is None
    os.kill(app.facts["guardian"], signal.SIGCONT)


async def test_a_server_of_this_app_is_none(launch: Launch) -> None:
    handle = await launch()
    marker = handle.record.marker
    findings = look((marker,))
    assert marker not in [left.marker for left in findings.leftovers]
    assert not [each for each in findings.foreign if handle.pid in each.pids]


async def test_what_somebody_looks_after_by_now_is_not_touched(start_app: StartApp) -> None:
    app = await start_app()
    left = await left_behind(app)
    adopted: set[str] = set()
    leftovers = Leftovers(lambda: adopted, None)
    await leftovers.scan()
    adopted.add(app.marker)
    with pytest.raises(UnknownLeftover):
        await leftovers.reclaim(left.id)
    assert set(processes_with_marker(app.marker)) == set(left.pids)
    adopted.clear()
    await leftovers.scan()
    await leftovers.reclaim(left.id)


@contextmanager
def stranger(**env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like vLLM's engine."""
    process = subprocess.Popen(
        [sys.executable, "-c", STRANGER], stdout=subprocess.PIPE, start_new_session=True, env=os.environ | env
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.slow
async def test_a_vllm_of_somebody_else_is_listed_and_survives(start_app: StartApp) -> None:
    app = await start_app()
    left = await left_behind(app)
    with stranger() as process:
        leftovers = Leftovers(no_servers, None)
        findings = await leftovers.scan()
        assert process.pid not in [pid for each in findings.leftovers for pid in each.pids]
        (other,) = [each for each in findings.foreign if process.pid in each.pids]
        assert not other.of_deck
        told = next(
            each for each in findings_dict(findings, (), other.started_at + 60)["foreign"] if each["pid"] == process.pid
        )
        assert told["kill"] == f"kill {process.pid}"
        assert told["age_s"] == pytest.approx(60)
        await leftovers.reclaim(left.id)
        with pytest.raises(UnknownLeftover):
            await leftovers.reclaim(str(process.pid))
        assert process.poll() is None


@pytest.mark.slow
async def test_a_marker_without_its_app_is_not_believed() -> None:
    with stranger(DECK_SERVER="alpha:0123456789abcdef") as process:
        assert process.pid not in [pid for each in look(()).leftovers for pid in each.pids]
        assert process.pid in [pid for each in look(()).foreign for pid in each.pids]


def test_an_old_folder_of_a_server_that_is_gone_is_found_and_removed(short_tmp: Path) -> None:
    old, young, odd = (short_tmp / name for name in ("deck-0123456789", "deck-abcdef0123", "deck-mine"))
    for folder in (old, young, odd):
        folder.mkdir()
        (folder / "file").write_text("x")
    for folder in (old, odd):
        os.utime(folder, (1000, 1000))

    async def scan_and_reclaim() -> None:
        leftovers = Leftovers(no_servers, None)
        await leftovers.scan()
        ours = [left for left in leftovers.latest.leftovers if left.tmpdir.startswith(f"{short_tmp}/")]
        assert [left.tmpdir for left in ours] == [str(old)]
        await leftovers.reclaim(ours[0].id)

    asyncio.run(scan_and_reclaim())
    assert not old.exists()
    for folder in (young, odd):
        assert (folder / "file").exists()
        (folder / "file").unlink()
        folder.rmdir()


async def test_a_folder_in_use_stays(launch: Launch, settings: Settings) -> None:
    handle = await launch()
    os.utime(handle.record.tmpdir, (1000, 1000))
    assert handle.record.tmpdir not in [left.tmpdir for left in look((handle.record.marker,)).leftovers]


@pytest.mark.parametrize(
    ("processes", "in_container", "held"),
    [
        ((DeviceProcess(7, 5, "vllm"), DeviceProcess(8, 6, "other")), False, {0: 5}),
        ((DeviceProcess(8, 6, "other"),), False, {}),
        ((DeviceProcess(7, None, "vllm"), DeviceProcess(8, None, "other")), False, {0: None}),
        ((DeviceProcess(900, 11, None),), True, {0: None}),
        (None, False, {0: None}),
    ],
    ids=["listed", "holds nothing", "hidden figures", "pids of another namespace", "driver lists nothing"],
)
def test_what_processes_hold_is_unknown_where_they_may_be_hidden(
    monkeypatch: pytest.MonkeyPatch,
    processes: tuple[DeviceProcess, ...] | None,
    in_container: bool,
    held: dict[int, int | None],
) -> None:
    monkeypatch.setattr(reclaim, "in_own_pid_namespace", lambda: in_container)
    device = DeviceSnapshot(0, "GPU-a", "H100", 80, 20, 60, 0, processes=processes)
    assert reclaim.held_by_device({7}, [device]) == held
