"""The ledger as the page gets it: readings that go on, servers that start, in a container that hides its processes."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from processes import eventually

from server_manager import ledger_book
from server_manager.launchers.base import ProcessInfo
from server_manager.ledger_book import LedgerBook
from server_manager.memory_parts import MemoryParts, RankMemory
from server_manager.reclaim import Leftovers
from server_manager.server_state import ServerState, ServerStatus
from server_manager.telemetry.base import DeviceProcess, DeviceSnapshot
from server_manager.telemetry.ledger import Basis
from server_manager.telemetry.sampler import GpuSampler

GIB, MIB = 1 << 30, 1 << 20


class Gpu:
    """A probe of one GPU of 80 GiB that lists the host's pids, which mean nothing here."""

    def __init__(self) -> None:
        self.used_gib = 5.0

    def read(self) -> tuple[DeviceSnapshot, ...]:
        used = int(self.used_gib * GIB)
        unseen = DeviceProcess(2**31 - 1, used, None)
        return (DeviceSnapshot(0, None, "H100", 80 * GIB, used, 80 * GIB - used, 0, processes=(unseen,)),)

    def close(self) -> None: ...


@pytest.mark.parametrize(("in_container", "basis", "held"), [(True, Basis.HIDDEN, 20), (False, Basis.PROCESSES, None)])
async def test_a_start_is_seen_where_processes_are_not(
    monkeypatch: pytest.MonkeyPatch, in_container: bool, basis: Basis, held: int | None
) -> None:
    monkeypatch.setattr(ledger_book, "in_own_pid_namespace", lambda: in_container)
    gpu = Gpu()
    statuses = {"alpha": ServerStatus("alpha")}
    owners: dict[str, tuple[ProcessInfo, ...]] = {"alpha": ()}
    sampler = GpuSampler(lambda: gpu, lambda: owners, interval=0.01)
    book = LedgerBook(sampler, lambda: statuses, Leftovers(frozenset, sampler))
    sampler.start()
    book.start()
    try:
        await sampler.next_reading()
        statuses["alpha"] = ServerStatus("alpha", ServerState.STARTING, started_at=time.time())
        owners["alpha"] = (ProcessInfo(1234, "vllm", MIB),)
        for _ in range(3):
            await sampler.next_reading()
        gpu.used_gib = 25
        memory = MemoryParts((RankMemory(9, 14 * GIB, 4 * GIB),))
        statuses["alpha"] = replace(statuses["alpha"], state=ServerState.READY, since=time.time(), memory=memory)

        def seen() -> bool:
            return sampler.latest is not None and sampler.latest.devices[0].memory_used_bytes == 25 * GIB

        await eventually(seen, "the memory is taken")
        await sampler.next_reading()
        (ledger,) = book.of(sampler.latest).devices
        assert ledger.basis is basis
        estimate = book.of(sampler.latest).estimate_of("alpha")
        assert estimate == (None if held is None else held * GIB)
        assert sum(owner.held_bytes or 0 for owner in ledger.owners) == 80 * GIB
        assert {owner.name: owner.held_bytes for owner in book.of(sampler.latest).host.owners}["alpha"] == MIB  # type: ignore[union-attr]
    finally:
        await book.stop()
        await sampler.stop()


async def test_before_the_first_reading_nothing_is_known() -> None:
    sampler = GpuSampler(Gpu, dict)
    ledger = LedgerBook(sampler, dict, Leftovers(frozenset, sampler)).of(None)
    assert (ledger.devices, ledger.host) == ((), None)
