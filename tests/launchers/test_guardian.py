"""The app dies; nothing of its servers may outlive it unless that was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from processes import fake_shared_memory

from server_manager.launchers import guardian
from server_manager.launchers.base import HandleRecord
from server_manager.launchers.leftovers import noted_shared_memory, remove_tmpdir
from server_manager.launchers.local import LocalLauncher, create_launcher, guardians_of
from server_manager.launchers.process_tree import ProcessTree, read_marker, read_member
from server_manager.settings import Settings

from .conftest import Launch, eventually, free_port, is_serving, processes_with_marker

ROOT = Path(__file__).resolve().parents[2]


class App:
    """The app of ``app_to_kill.py`` and what it told of its server."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, facts: dict) -> None:
        self.process = process
        self.port = port
        self.facts = facts

    @property
    def record(self) -> HandleRecord:
        names = {field.name for field in dataclasses.fields(HandleRecord)}
        known = {key: value for key, value in self.facts.items() if key in names}
        return HandleRecord(**{**known, "argv": tuple(known["argv"])})

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


StartApp = Callable[..., "asyncio.Future[App]"]


@pytest.fixture
def start_app(state_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the app of ``app_to_kill.py``; keywords are settings of the fake vLLM."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = Path(__file__).with_name("app_to_kill.py")

    async def start(mode: str, **fake: object) -> App:
        port = free_port()
        env = os.environ | {f"FAKE_VLLM_{key.upper()}": str(value) for key, value in fake.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(script), str(state_dir), str(port), mode, stdout=asyncio.subprocess.PIPE, env=env
        )
        assert process.stdout is not None
        line = await process.stdout.readline()
        return App(process, port, json.loads(line) if line else {})

    return start


async def all_gone(app: App) -> None:
    await eventually(lambda: not processes_with_marker(app.record.marker), "every process is gone")
    await eventually(lambda: not Path(app.record.tmpdir).exists(), "TMPDIR is gone")
    await eventually(lambda: not psutil.pid_exists(app.facts["guardian"]) or zombie(app), "the guardian has gone")


def zombie(app: App) -> bool:
    member = read_member(app.facts["guardian"])
    return member is None or not member.alive


async def test_app_killed_while_the_server_loads(start_app: StartApp) -> None:
    app = await start_app("hold", ready_after=60)
    assert processes_with_marker(app.record.marker)
    await app.kill()
    await all_gone(app)


async def test_app_killed_while_the_server_serves(start_app: StartApp) -> None:
    before = fake_shared_memory()
    app = await start_app("hold", setsid=1, shm=1)
    await eventually(lambda: is_serving(app.port), "the server listens")
    assert fake_shared_memory() - before
    await app.kill()
    await all_gone(app)
    await eventually(lambda: not fake_shared_memory() - before, "shared memory is removed")
    assert "ended without stopping this server" in Path(app.record.log_path).read_text()


async def test_app_killed_while_the_server_stops(start_app: StartApp) -> None:
    app = await start_app("stopping", sigterm="ignore")
    assert processes_with_marker(app.record.marker)
    await app.kill()
    await all_gone(app)


async def test_app_ends_without_stopping_its_server(start_app: StartApp) -> None:
    app = await start_app("leave")
    assert await app.process.wait() == 0
    await all_gone(app)


async def test_whole_session_of_the_app_is_killed_politely(start_app: StartApp) -> None:
    app = await start_app("hold")
    # As systemd does: SIGTERM to everything in the unit. The guardian stays until the app is gone.
    os.kill(app.facts["guardian"], signal.SIGTERM)
    os.kill(app.facts["guardian"], signal.SIGINT)
    await app.kill()
    await all_gone(app)


async def test_app_killed_before_it_told_the_pid(start_app: StartApp, state_dir: Path, short_tmp: Path) -> None:
    app = await start_app("no-pid", ready_after=60, setsid=1)
    assert await app.process.wait() == -signal.SIGKILL

    def left() -> list[str]:
        markers = (read_marker(int(pid)) for pid in os.listdir("/proc") if pid.isdigit())
        return [marker for marker in markers if marker.startswith(state_dir.name)]

    await eventually(lambda: not left() and not list(short_tmp.iterdir()), "the guardian found it by its marker")


@pytest.mark.slow
async def test_app_killed_before_there_was_a_server(start_app: StartApp, state_dir: Path) -> None:
    app = await start_app("no-server")
    assert await app.process.wait() == -signal.SIGKILL

    def guardians() -> list[str]:
        found = []
        for pid in os.listdir("/proc"):
            if pid.isdigit() and (member := read_member(int(pid))) is not None and member.alive:
                command = Path(f"/proc/{pid}/cmdline")
                found += (
                    [pid]
                    if f"{state_dir.name}:".encode() in (command.read_bytes() if command.exists() else b"")
                    else []
                )
        return found

    await eventually(lambda: not guardians(), "the guardian goes when it has found nobody for a while")


async def test_server_that_may_survive_is_adopted_by_the_next_app(start_app: StartApp, settings: Settings) -> None:
    app = await start_app("survive")
    await eventually(lambda: is_serving(app.port), "the server listens")
    await app.kill()
    assert guardians_of(app.record.marker), "somebody watches it while no app is up"
    handle = await create_launcher(settings).adopt(app.record)
    assert handle is not None
    assert is_serving(app.port)
    await eventually(lambda: zombie(app), "the guardian of the first app is sent away")
    assert [guardian.pid for guardian in guardians_of(app.record.marker)] == [handle.guardian_pid]
    assert await handle.kill() == ()
    assert not processes_with_marker(app.record.marker)
    assert not Path(app.record.tmpdir).exists()


async def test_kept_server_that_dies_while_no_app_is_up_leaves_nothing(start_app: StartApp) -> None:
    """Its API server alone is killed: EngineCore would hold the GPU's memory for good."""
    before = fake_shared_memory()
    app = await start_app("survive", setsid=1, shm=1)
    await eventually(lambda: is_serving(app.port), "the server listens")
    await app.kill()
    assert is_serving(app.port)
    os.kill(app.record.pid, signal.SIGKILL)
    await all_gone(app)
    assert not fake_shared_memory() - before
    assert "ended while no vLLM Deck was up" in Path(app.record.log_path).read_text()


@pytest.mark.slow
async def test_next_app_knows_the_shared_memory_of_a_server_that_was_killed_with_app_and_guardian(
    start_app: StartApp, settings: Settings
) -> None:
    """Then nobody lives who has seen it in use: the names are noted in TMPDIR."""
    before = fake_shared_memory()
    app = await start_app("survive", setsid=1, shm=1)
    await eventually(lambda: is_serving(app.port), "the server listens")
    await eventually(lambda: noted_shared_memory(app.record.tmpdir), "its shared memory is noted")
    os.kill(app.process.pid, signal.SIGSTOP)  # it would start another guardian
    os.kill(app.facts["guardian"], signal.SIGKILL)
    others = [pid for pid in processes_with_marker(app.record.marker) if os.getpgid(pid) != app.record.pid]
    os.killpg(app.record.pid, signal.SIGKILL)  # in one go: an API server that sees its engine die tidies up
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    await app.kill()
    await asyncio.sleep(3.5)  # what is younger than that would be taken for the server's anyway
    assert await create_launcher(settings).adopt(app.record) is None
    assert not fake_shared_memory() - before
    assert not Path(app.record.tmpdir).exists()


async def test_replaced_guardian_knows_that_the_server_may_survive(start_app: StartApp, settings: Settings) -> None:
    app = await start_app("survive")
    await eventually(lambda: is_serving(app.port), "the server listens")
    os.kill(app.facts["guardian"], signal.SIGKILL)

    def successor() -> list[int]:
        return [guardian.pid for guardian in guardians_of(app.record.marker) if guardian.pid != app.facts["guardian"]]

    await eventually(successor, "a new guardian")
    await app.kill()
    handle = await create_launcher(settings).adopt(app.record)
    assert handle is not None
    await handle.kill()


async def test_guardian_is_outside_and_holds_nothing_of_the_app(start_app: StartApp) -> None:
    app = await start_app("hold")
    pid = app.facts["guardian"]
    assert os.getsid(pid) == pid
    held = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # a file in /proc that it had just been reading
            held.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    assert held
    assert not [name for name in held if name.startswith("socket:")]
    assert app.facts["marker"] != read_marker(pid), "it must not find itself"
    await app.kill()
    await all_gone(app)


async def test_killed_guardian_is_replaced(start_app: StartApp) -> None:
    app = await start_app("hold")
    first = app.facts["guardian"]
    os.kill(first, signal.SIGKILL)

    def successors() -> list[int]:
        children = psutil.Process(app.process.pid).children()
        return [c.pid for c in children if c.pid != first and app.record.marker in " ".join(c.cmdline())]

    app.facts["guardian"] = (await eventually(successors, "a new guardian"))[0]
    await app.kill()
    await all_gone(app)


async def test_guardian_goes_when_the_server_was_ended(launch: Launch) -> None:
    handle = await launch()
    link = handle._guardian
    assert link is not None
    assert link.alive()
    await handle.kill()
    assert not link.alive()


async def test_adopted_server_gets_a_guardian_unless_it_is_kept(launch: Launch, launcher: LocalLauncher) -> None:
    handle = await launch()
    adopted = await launcher.adopt(handle.record)
    assert adopted is not None
    assert adopted._guardian is not None
    assert adopted._guardian.alive()
    await adopted.kill()


async def test_pid_given_to_another_process_is_left_alone() -> None:
    stranger = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import time; time.sleep(600)", start_new_session=True
    )
    member = read_member(stranger.pid)
    assert member is not None
    tree = ProcessTree("gone:1", stranger.pid, member.start_ticks - 1)
    assert tree.members() == []
    guardian.kill_members(tree.members(), stranger.pid)
    assert stranger.returncode is None
    assert psutil.Process(stranger.pid).status() != psutil.STATUS_ZOMBIE
    stranger.kill()
    await stranger.wait()


def test_folder_that_is_not_ours_is_never_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "inside").mkdir(parents=True)
    link = tmp_path / "deck-link"
    link.symlink_to(precious)
    remove_tmpdir(str(precious))
    remove_tmpdir(str(link))
    assert (precious / "inside").exists()


def test_link_in_a_tmpdir_is_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    ours = tmp_path / "deck-1"
    (ours / "deep" / "er").mkdir(parents=True)
    (ours / "deep" / "link").symlink_to(outside)
    remove_tmpdir(str(ours))
    assert not ours.exists()
    assert (outside / "file").exists()
