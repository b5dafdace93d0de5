"""Real processes, and a check after every test that nothing of them is left."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from processes import FAKE_VLLM, eventually, fake_shared_memory, free_port, is_serving, processes_with_marker

from server_manager.launchers.base import LaunchRequest
from server_manager.launchers.leftovers import SHARED_MEMORY
from server_manager.launchers.local import LocalLauncher, create_launcher
from server_manager.launchers.local_handle import LocalServerHandle
from server_manager.launchers.process_tree import read_marker
from server_manager.settings import Settings

__all__ = ["eventually", "free_port", "is_serving", "processes_with_marker"]

Launch = Callable[..., Awaitable[LocalServerHandle]]


@pytest.fixture
def state_dir(tmp_path: Path, short_tmp: Path) -> Iterator[Path]:
    """The state folder; when the test is over, no process, TMPDIR or shared memory of it may be left."""
    name = f"t{os.getpid()}x{time.monotonic_ns()}"
    folder = tmp_path / name
    folder.mkdir()
    memory_before = fake_shared_memory()
    yield folder
    left = {pid: read_marker(int(pid)) for pid in os.listdir("/proc") if pid.isdigit()}
    left = {pid: marker for pid, marker in left.items() if marker.startswith(name)}
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    tmpdirs = list(short_tmp.iterdir())
    for tmpdir in tmpdirs:
        for path in tmpdir.iterdir():
            path.unlink()
        tmpdir.rmdir()
    memory = fake_shared_memory() - memory_before
    for entry in memory:
        os.unlink(f"{SHARED_MEMORY}/{entry}")
    assert not left, f"processes left: {left}"
    assert not tmpdirs, f"folders left: {tmpdirs}"
    assert not memory, f"shared memory left: {memory}"


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    return Settings(state_dir=state_dir, models_dir=state_dir, vllm_command=(sys.executable, str(FAKE_VLLM)))


@pytest.fixture
def launcher(settings: Settings) -> LocalLauncher:
    return create_launcher(settings)


@pytest.fixture
async def launch(launcher: LocalLauncher, settings: Settings) -> AsyncIterator[Launch]:
    """Starts a fake vLLM; keywords are its ``FAKE_VLLM_*`` settings. Ended after the test unless it did so itself."""
    handles = []

    async def launch(*, ready: bool = True, **fake: object) -> LocalServerHandle:
        handle = await launcher.launch(request_for(settings, **fake))
        handles.append(handle)
        if ready:
            await eventually(lambda: is_serving(handle.record.port), "the server listens")
        return handle

    yield launch
    for handle in handles:
        await handle.kill()


def request_for(settings: Settings, **fake: object) -> LaunchRequest:
    port = free_port()
    name = settings.state_dir.name
    return LaunchRequest(
        name=name,
        argv=(*settings.vllm_command, "serve", "smol", "--port", str(port)),
        env={f"FAKE_VLLM_{key.upper()}": str(value) for key, value in fake.items()},
        log_path=settings.logs_dir / f"{name}.log",
        port=port,
        secret_env={"VLLM_API_KEY": "secret-key"},
    )
