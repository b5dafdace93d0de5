"""What is left of servers whose app is dead: found at start-up and on demand, and ended when an operator says so."""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from server_manager.errors import ManagerClosed, UnknownLeftover
from server_manager.launchers.base import HandleRecord
from server_manager.launchers.leftovers import SHARED_MEMORY, remove_leavings
from server_manager.launchers.local_handle import LocalServerHandle
from server_manager.leftover_scan import Findings, ForeignVllm, Leftover, look, still_left_over
from server_manager.pid_namespace import in_own_pid_namespace
from server_manager.stop_receipt import ReceiptTaker, StopReceipt
from server_manager.telemetry.base import DeviceSnapshot
from server_manager.telemetry.ledger import Claim, OwnerKind, device_ledgers
from server_manager.telemetry.sampler import GpuSampler

log = logging.getLogger(__name__)

_WORTH_TELLING_BYTES = 1 << 20
"""Semaphores that are left in /dev/shm take some bytes each."""


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What became of a leftover."""

    name: str
    """Of the server; empty where only a folder was left."""
    ended_pids: tuple[int, ...]
    seconds: float
    left_pids: tuple[int, ...] = ()
    """Processes that outlived SIGKILL: they hang in a driver."""
    receipt: StopReceipt | None = None
    """What memory came back; ``None`` where there was none, or nothing is known of it."""


class Leftovers:
    """The last look, and the way to end what it found. Methods belong to the event loop."""

    def __init__(self, own_markers: Callable[[], Collection[str]], sampler: GpuSampler | None) -> None:
        """``own_markers``: of the servers that the app looks after. Without a sampler nothing is known of GPUs."""
        self._own_markers = own_markers
        self._sampler = sampler
        self._lock = asyncio.Lock()
        self.latest = Findings()
        self.looked_at: float | None = None
        """Unix time in seconds."""

    async def scan(self) -> Findings:
        """Looks anew."""
        findings = await asyncio.to_thread(look, self._own_markers())
        # A server that was started during the look was not ours before it.
        own = self._own_markers()
        kept = tuple(found for found in findings.leftovers if not found.marker or found.marker not in own)
        self.latest = Findings(kept, findings.foreign, findings.shared_memory, findings.shared_memory_bytes)
        self.looked_at = time.time()
        return self.latest

    async def scan_at_start(self) -> None:
        """The same, and tells the app's log what was found."""
        for found in (await self.scan()).leftovers:
            log.warning(
                "left over of %s: %s", found.name or "a server", f"pids {found.pids}" if found.pids else found.tmpdir
            )

    async def reclaim(self, leftover_id: str) -> Reclaimed:
        """Ends a leftover and removes its files. Raises ``UnknownLeftover`` where it is gone, or is none any more."""
        async with self._lock:
            known = next((found for found in self.latest.leftovers if found.id == leftover_id), None)
            if known is None:
                raise UnknownLeftover("There is no such leftover.", "Look again.", id=leftover_id)
            # By pid, start time and marker, and once more whether somebody looks after it by now.
            found = await asyncio.to_thread(still_left_over, known, self._own_markers())
            if found is None or (found.marker and found.marker in self._own_markers()):
                await self.scan()
                raise UnknownLeftover(
                    "It is gone, or somebody looks after it by now: nothing was touched.", "Look again.", id=leftover_id
                )
            reclaimed = await self._end(found)
            await self.scan()
            return reclaimed

    async def _end(self, found: Leftover) -> Reclaimed:
        began = time.monotonic()
        taker = await self._receipt_taker(found)
        left_pids: tuple[int, ...] = ()
        if found.marker:
            left_pids = await LocalServerHandle(_record_of(found)).kill()
        else:
            await asyncio.to_thread(remove_leavings, found.tmpdir)
        receipt = await taker.finish() if taker else None
        seconds = time.monotonic() - began
        log.info("reclaimed what was left of %s: pids %s in %.1f s", found.name, found.pids, seconds)
        return Reclaimed(found.name, found.pids, seconds, left_pids, receipt)

    async def _receipt_taker(self, found: Leftover) -> ReceiptTaker | None:
        if self._sampler is None or not found.pids:
            return None
        try:
            reading = await self._sampler.fresh_reading()
        except ManagerClosed:
            return None
        held = held_by_device(found.pids, reading.devices).values()
        known = [size for size in held if size is not None]
        return ReceiptTaker(self._sampler, found.pids, found.rss_bytes, sum(known) if len(known) == len(held) else None)


def _kill_line(found: ForeignVllm) -> str:
    return f"{'' if found.own_user else 'sudo '}kill {' '.join(map(str, found.pids))}"


def _record_of(found: Leftover) -> HandleRecord:
    """Without the pid of a leader: so members are found by the marker alone, and no stranger can be among them."""
    return HandleRecord(
        name=found.name,
        launcher="local",
        pid=0,
        start_ticks=0,
        boot_id="",
        port=0,
        log_path="",
        tmpdir=found.tmpdir,
        api_key="",
        argv=(),
        env={},
        started_at=found.started_at,
        marker=found.marker,
    )


def findings_dict(findings: Findings, devices: Sequence[DeviceSnapshot], now: float) -> dict[str, Any]:
    """What was found, for people and scripts, with its age in seconds and what it holds on each GPU.

    Command lines are left out (they may hold keys), and so are the markers.
    """

    def held(pids: Sequence[int]) -> list[dict[str, int | None]]:
        return [{"index": index, "held_bytes": size} for index, size in held_by_device(pids, devices).items()]

    return {
        "leftovers": [
            {
                "id": found.id,
                "name": found.name or None,
                "pids": found.pids,
                "age_s": max(0.0, now - found.started_at),
                "rss_bytes": found.rss_bytes,
                "gpus": held(found.pids),
                "tmpdir": found.tmpdir or None,
            }
            for found in findings.leftovers
        ],
        "foreign": [
            {
                "name": found.name,
                "pid": found.pid,
                "pids": found.pids,
                "user": found.user,
                "age_s": max(0.0, now - found.started_at),
                "rss_bytes": found.rss_bytes,
                "gpus": held(found.pids),
                "of_deck": found.of_deck,
                "kill": None if found.of_deck else _kill_line(found),
            }
            for found in findings.foreign
        ],
        "shared_memory": {
            "bytes": findings.shared_memory_bytes,
            "names": findings.shared_memory,
            "rm": shlex.join(["rm", *(f"{SHARED_MEMORY}/{name}" for name in findings.shared_memory)]),
        }
        if findings.shared_memory_bytes >= _WORTH_TELLING_BYTES
        else None,
    }


def held_by_device(pids: Collection[int], devices: Sequence[DeviceSnapshot]) -> dict[int, int | None]:
    """What these processes hold, by GPU index, as the page's ledger tells it; a GPU that is missing: nothing.

    ``None`` where nobody can tell: the driver hides a figure, or in a container perhaps the processes.
    """
    claim = Claim("", frozenset(pids), leftover_id="")
    ledgers = device_ledgers(devices, [claim], may_hide=in_own_pid_namespace()) if pids else ()
    return {
        ledger.index: owner.held_bytes
        for ledger in ledgers
        for owner in ledger.owners
        if owner.kind is OwnerKind.LEFTOVER and ledger.index is not None
    }
