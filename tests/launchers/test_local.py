"""Starting and ending real process trees."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import signal
import stat
import sys
from pathlib import Path

import pytest
from processes import fake_shared_memory

from server_manager.errors import LaunchError, StateDirError
from server_manager.launchers import leftovers, local
from server_manager.launchers.base import LaunchRequest
from server_manager.launchers.leftovers import NOTES_NAME, SHARED_MEMORY
from server_manager.launchers.local import LocalLauncher, create_launcher
from server_manager.launchers.local_handle import LocalServerHandle
from server_manager.launchers.process_tree import read_member
from server_manager.settings import Settings

from .conftest import Launch, eventually, is_serving, processes_with_marker, request_for


def named(handle: LocalServerHandle, name: str) -> int:
    """The pid of the member of that name, 0 where there is none."""
    return next((info.pid for info in handle.processes() if info.name.startswith(name)), 0)


async def test_sigterm_ends_an_idle_server_with_code_0(launch: Launch) -> None:
    handle = await launch()
    assert handle.poll() is None
    handle.terminate()
    assert await handle.wait() == 0
    assert await handle.kill() == ()
    assert handle.processes() == ()


async def test_kill_ends_what_ignores_sigterm(launch: Launch) -> None:
    handle = await launch(sigterm="ignore")
    handle.terminate()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handle.wait(), 0.5)
    assert await handle.kill() == ()
    assert handle.poll() == -signal.SIGKILL
    assert await handle.wait() == -signal.SIGKILL


async def test_kill_while_loading(launch: Launch) -> None:
    handle = await launch(ready=False, ready_after=60)
    await eventually(lambda: named(handle, "VLLM::EngineCor"), "EngineCore")
    assert await handle.kill() == ()
    assert processes_with_marker(handle.record.marker) == []


async def test_engine_core_of_a_killed_leader_is_ended(launch: Launch) -> None:
    handle = await launch()
    engine = await eventually(lambda: named(handle, "VLLM::EngineCor"), "EngineCore")
    os.kill(handle.pid, signal.SIGKILL)
    assert await handle.wait() == -signal.SIGKILL
    # The leader is dead and reaped, and still its tree is known.
    assert [info.pid for info in handle.processes()] == [engine]
    assert await handle.kill() == ()
    assert processes_with_marker(handle.record.marker) == []


async def test_process_that_left_the_session_is_ended(launch: Launch) -> None:
    handle = await launch(setsid=1)
    stray = await eventually(lambda: named(handle, "VLLM::Left"), "the stray process")
    assert os.getsid(stray) == stray
    assert await handle.kill() == ()
    assert processes_with_marker(handle.record.marker) == []


async def test_zombie_does_not_count(launcher: LocalLauncher, settings: Settings) -> None:
    code = "import os, signal, time\nif os.fork() == 0: os._exit(0)\nprint('forked', flush=True)\ntime.sleep(600)"
    request = dataclasses.replace(request_for(settings), argv=(sys.executable, "-c", code))
    handle = await launcher.launch(request)
    await eventually(lambda: "\nforked" in request.log_path.read_text(), "the child")
    await eventually(lambda: [info.pid for info in handle.processes()] == [handle.pid], "the zombie is left out")
    assert await handle.kill() == ()


async def test_kill_never_touches_the_callers_group(launch: Launch) -> None:
    handle = await launch()
    assert os.getpgid(handle.pid) == handle.pid != os.getpgrp()
    bystander = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(600)")
    await handle.kill()
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()


async def test_record_of_our_own_process_is_not_adopted(launcher: LocalLauncher, launch: Launch) -> None:
    handle = await launch()
    ourselves = read_member(os.getpid())
    assert ourselves is not None
    me = dataclasses.replace(handle.record, pid=os.getpid(), start_ticks=ourselves.start_ticks)
    assert local.is_same_server(me) is False


async def test_tmpdir_and_shared_memory_are_clean_after_kill(launch: Launch, short_tmp: Path) -> None:
    before = fake_shared_memory()
    handle = await launch(shm=1)
    await eventually(lambda: fake_shared_memory() - before, "shared memory")
    tmpdir = Path(handle.record.tmpdir)
    assert len([path for path in tmpdir.iterdir() if path.name != NOTES_NAME]) == 8
    assert stat.S_IMODE(tmpdir.stat().st_mode) == 0o700
    assert len(str(tmpdir)) < 60
    await handle.kill()
    assert not tmpdir.exists()
    assert fake_shared_memory() <= before


async def test_shared_memory_is_removed_when_all_were_killed_from_outside(launch: Launch) -> None:
    before = fake_shared_memory()
    handle = await launch(shm=1)
    await eventually(lambda: fake_shared_memory() - before, "shared memory")
    # A sampler looks at the processes while they live: that is when the names are learnt.
    await eventually(lambda: handle.processes() and handle._shared_memory.ours, "the names are learnt")
    os.killpg(handle.pid, signal.SIGKILL)
    await handle.wait()
    assert fake_shared_memory() - before
    await handle.kill()
    assert fake_shared_memory() <= before


async def test_shared_memory_of_others_stays(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    # A kind that only this process knows: what other tests end at this moment must not take it for theirs.
    monkeypatch.setattr(leftovers, "SHARED_MEMORY_PREFIXES", (*leftovers.SHARED_MEMORY_PREFIXES, "other_"))
    other = Path(SHARED_MEMORY) / f"other_{os.getpid()}"
    other.write_bytes(b"x" * 4096)
    try:
        handle = await launch(shm=1)
        await handle.kill()
        assert other.exists()
    finally:
        other.unlink()


async def test_kill_twice_at_once_and_again(launch: Launch) -> None:
    handle = await launch()
    assert await asyncio.gather(handle.kill(), handle.kill()) == [(), ()]
    assert await handle.kill() == ()


async def test_kill_goes_on_when_the_caller_is_cancelled(launch: Launch) -> None:
    handle = await launch(setsid=1)
    caller = asyncio.create_task(handle.kill())
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await eventually(lambda: not Path(handle.record.tmpdir).exists(), "the end is finished")
    assert processes_with_marker(handle.record.marker) == []


async def test_wait_returns_when_the_server_exits(launch: Launch) -> None:
    handle = await launch(ready=False, exit_code=3)
    assert await handle.wait() == 3
    assert "Engine core initialization failed" in Path(handle.record.log_path).read_text()


async def test_log_of_the_run_before_is_kept(launch: Launch) -> None:
    first = await launch()
    await first.kill()
    second = await launch(ready=False, exit_code=1)
    await second.wait()
    log = Path(second.record.log_path)
    assert "initialization failed" in log.read_text()
    previous = log.with_name(log.name + ".prev").read_text()
    assert "Application startup complete" in previous
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


async def test_api_key_is_neither_in_the_log_nor_in_the_arguments(launch: Launch) -> None:
    handle = await launch()
    assert handle.record.api_key == "secret-key"
    assert "secret-key" not in Path(handle.record.log_path).read_text()
    assert b"secret-key" not in Path(f"/proc/{handle.pid}/cmdline").read_bytes()
    assert "secret-key" not in str(handle.record.env)


async def test_missing_program_says_what_to_do(launcher: LocalLauncher, settings: Settings) -> None:
    request = dataclasses.replace(request_for(settings), argv=("/nope/python", "serve"))
    with pytest.raises(LaunchError, match="not found") as caught:
        await launcher.launch(request)
    assert "DECK_VLLM_PYTHON" in caught.value.next_step
    assert not request.log_path.exists()


async def test_program_that_may_not_run(launcher: LocalLauncher, settings: Settings) -> None:
    program = settings.state_dir / "vllm"
    program.write_text("no program")
    request = dataclasses.replace(request_for(settings), argv=(str(program),))
    with pytest.raises(LaunchError, match="may run"):
        await launcher.launch(request)


async def test_program_that_is_no_program_leaves_nothing(launcher: LocalLauncher, settings: Settings) -> None:
    program = settings.state_dir / "vllm"
    program.write_bytes(b"\x7fELF broken")
    program.chmod(0o700)
    request = dataclasses.replace(request_for(settings), argv=(str(program),))
    with pytest.raises(LaunchError, match="could not be started"):
        await launcher.launch(request)


async def test_full_disk_is_named_before_anything_starts(launcher: LocalLauncher, settings: Settings) -> None:
    request = request_for(settings)
    request.log_path.parent.mkdir(parents=True)
    request.log_path.symlink_to("/dev/full")
    with pytest.raises(StateDirError, match="No space left") as caught:
        await launcher.launch(request)
    assert caught.value.facts["errno"] == errno.ENOSPC
    assert str(request.log_path) in str(caught.value)
    assert "Free some space" in caught.value.next_step


async def test_log_folder_that_is_a_file(launcher: LocalLauncher, settings: Settings) -> None:
    settings.logs_dir.write_text("in the way")
    with pytest.raises(StateDirError, match="log"):
        await launcher.launch(request_for(settings))


async def test_environment_of_the_server(launch: Launch, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("VLLM_PORT", "1234")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    handle = await launch()
    entries = Path(f"/proc/{handle.pid}/environ").read_text().split("\0")
    env = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    assert "PYTHONDONTWRITEBYTECODE" not in env
    assert "VLLM_PORT" not in env
    assert env["TORCHINDUCTOR_CACHE_DIR"] == str(settings.cache_dir / "torchinductor")
    assert env["TMPDIR"] == handle.record.tmpdir
    assert env["VLLM_NO_USAGE_STATS"] == env["DO_NOT_TRACK"] == env["SPT_NOENV"] == "1"
    assert env["VLLM_API_KEY"] == "secret-key"
    assert env["DECK_SERVER"] == handle.record.marker


def test_environment_of_the_request_wins(settings: Settings) -> None:
    request = LaunchRequest("m", ("x",), {"VLLM_NO_USAGE_STATS": "0", "DECK_SERVER": "no"}, Path("/l"), 1)
    env = local.child_environment({}, request, settings.cache_dir, Path("/tmp/d"), "m:1")
    assert env["VLLM_NO_USAGE_STATS"] == "0"
    assert env["DECK_SERVER"] == "m:1"


def test_long_tmpdir_is_not_used(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    path = local.new_tmpdir_path({"TMPDIR": str(long)})
    assert path.parent == Path("/tmp")
    assert len(str(path)) < 60


async def test_processor_time_grows(launch: Launch) -> None:
    handle = await launch()
    assert handle.cpu_seconds() > 0
    leader = next(info for info in handle.processes() if info.pid == handle.pid)
    assert leader.rss_bytes > 1_000_000


@pytest.fixture
def next_app(settings: Settings) -> LocalLauncher:
    return create_launcher(dataclasses.replace(settings, keep_servers=True))


async def test_adopted_server_can_be_watched_and_ended(launch: Launch, next_app: LocalLauncher) -> None:
    handle = await launch()
    adopted = await next_app.adopt(handle.record)
    assert adopted is not None
    assert adopted.poll() is None
    assert {info.pid for info in adopted.processes()} == {info.pid for info in handle.processes()}
    waiting = asyncio.create_task(adopted.wait())
    adopted.terminate()
    assert await waiting == -1
    assert await adopted.kill() == ()


async def test_wrong_start_time_is_not_adopted(launch: Launch, next_app: LocalLauncher) -> None:
    handle = await launch()
    for wrong in (
        dataclasses.replace(handle.record, marker="another:1", start_ticks=handle.record.start_ticks - 1),
        dataclasses.replace(handle.record, marker="another:1", start_ticks=handle.record.start_ticks + 1),
        dataclasses.replace(handle.record, marker="another:1", boot_id="an earlier boot"),
    ):
        assert await next_app.adopt(wrong) is None
    assert is_serving(handle.record.port)


async def test_what_bears_the_marker_is_ended_where_the_record_is_wrong(
    launch: Launch, next_app: LocalLauncher
) -> None:
    handle = await launch()
    assert await next_app.adopt(dataclasses.replace(handle.record, boot_id="an earlier boot")) is None
    assert processes_with_marker(handle.record.marker) == []


async def test_orphans_of_a_server_whose_leader_is_gone_are_ended(launch: Launch, next_app: LocalLauncher) -> None:
    handle = await launch(setsid=1)
    os.kill(handle.pid, signal.SIGKILL)
    await handle.wait()
    assert processes_with_marker(handle.record.marker)
    assert await next_app.adopt(handle.record) is None
    assert processes_with_marker(handle.record.marker) == []
    assert not Path(handle.record.tmpdir).exists()
