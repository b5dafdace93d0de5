"""Looking at real processes, for the tests that start some."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from server_manager.launchers.leftovers import SHARED_MEMORY
from server_manager.launchers.process_tree import read_marker

FAKE_VLLM = Path(__file__).resolve().parent / "fake_vllm.py"
VLLM_LOGS = Path(__file__).resolve().parent / "vllm_logs"
DEADLINE_SECONDS = 30.0
FAKE_MEMORY = f"psm_fake{os.getpid()}-"
"""How the names begin that fakes of this process make in /dev/shm: other tests may run at the same time."""

T = TypeVar("T")


async def eventually(look: Callable[[], T], what: str) -> T:
    """Polls until ``look`` returns something true, and returns it."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (value := look()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        await asyncio.sleep(0.02)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_with_marker(marker: str) -> list[int]:
    """Every process, of whatever session, that carries the marker (zombies have no environment left)."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and read_marker(int(name)) == marker]


def processes_below(folder: Path) -> list[int]:
    """Every other process whose TMPDIR was or is in ``folder``: servers, whatever they started, and their guardians."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:  # gone meanwhile, or of another user
                continue
            if f"TMPDIR={folder}".encode() in environment:
                found.append(int(name))
    return found


def is_serving(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def fake_shared_memory() -> set[str]:
    return {name for name in os.listdir(SHARED_MEMORY) if name.startswith(FAKE_MEMORY)}


def clear_and_report(folder: Path, memory_before: set[str]) -> list[str]:
    """What a test left behind, in words; all of it is removed, so that it fails one test and not those after it."""
    report = []
    for pid in processes_below(folder):
        report.append(f"process {pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()[:200]!r}")
        os.kill(pid, signal.SIGKILL)
    for tmpdir in folder.iterdir():
        report.append(f"folder {tmpdir}")
        for path in tmpdir.iterdir():
            path.unlink()
        tmpdir.rmdir()
    for name in fake_shared_memory() - memory_before:
        report.append(f"shared memory {name}")
        os.unlink(f"{SHARED_MEMORY}/{name}")
    return report
