"""The machine's memory and processor, with and without a container's limit."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest

from server_manager.telemetry.host import HostProbe

MIB = 1 << 20


def no_cgroup(tmp_path: Path) -> HostProbe:
    return HostProbe(tmp_path / "none", tmp_path / "none")


def limit(folder: Path, maximum: str, current: int, inactive_file: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{maximum}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive_file}\n")


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    (tmp_path / "membership").write_text("5:memory:/old\n0::/system.slice/deck.service\n")
    return tmp_path / "cgroup"


def test_without_a_limit_the_figures_are_the_machine_s(tmp_path: Path) -> None:
    host = no_cgroup(tmp_path).read()
    memory = psutil.virtual_memory()
    assert host.memory_total_bytes == memory.total
    assert host.memory_used_bytes + host.memory_available_bytes == memory.total
    assert host.memory_available_bytes == pytest.approx(memory.available, abs=memory.total // 10)
    assert host.cpu_count == psutil.cpu_count()
    assert 0 <= host.cpu_percent <= 100


def test_a_container_s_limit_is_the_total_and_droppable_cache_is_not_used(tmp_path: Path, cgroup: Path) -> None:
    limit(cgroup / "system.slice" / "deck.service", str(96 * MIB), current=60 * MIB, inactive_file=20 * MIB)
    host = HostProbe(cgroup, tmp_path / "membership").read()
    assert host.memory_total_bytes == 96 * MIB
    assert host.memory_used_bytes == 40 * MIB
    assert host.memory_available_bytes == 56 * MIB


def test_a_parent_s_lower_limit_counts(tmp_path: Path, cgroup: Path) -> None:
    limit(cgroup / "system.slice" / "deck.service", "max", current=5 * MIB)
    limit(cgroup / "system.slice", str(64 * MIB), current=10 * MIB)
    host = HostProbe(cgroup, tmp_path / "membership").read()
    assert (host.memory_total_bytes, host.memory_used_bytes) == (64 * MIB, 10 * MIB)


def test_a_limit_above_the_machine_s_memory_changes_nothing(tmp_path: Path, cgroup: Path) -> None:
    limit(cgroup / "system.slice" / "deck.service", str(1 << 50), current=5 * MIB)
    assert HostProbe(cgroup, tmp_path / "membership").read().memory_total_bytes == psutil.virtual_memory().total


def test_processor_use_is_seen_whatever_thread_asks(tmp_path: Path) -> None:
    probe = no_cgroup(tmp_path)
    before = sum(psutil.Process().cpu_times()[:2])
    while sum(psutil.Process().cpu_times()[:2]) < before + 0.3:
        pass
    percents: list[float] = []
    thread = threading.Thread(target=lambda: percents.append(probe.read().cpu_percent))
    thread.start()
    thread.join()
    assert 0 < percents[0] <= 100
