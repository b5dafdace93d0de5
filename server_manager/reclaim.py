"""What is left of servers whose app is dead: found at start-up and on demand, and ended when an operator says so."""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server_manager.errors import ManagerClosed, UnknownLeftover
from server_manager.launchers.base import HandleRecord
from server_manager.launchers.leftovers import SHARED_MEMORY, remove_leavings
from server_manager.launchers.local_handle import LocalServerHandle
from server_manager.leftover_scan import Findings, ForeignVllm, Leftover, look, still_left_over
from server_manager.telemetry.base import DeviceSnapshot, Reading
from server_manager.telemetry.sampler import GpuSampler

log = logging.getLogger(__name__)

_MEMORY_PATIENCE = 10.0
"""Seconds that a driver may take to give the memory of a dead process back."""

_WORTH_TELLING_BYTES = 1 << 20
"""Semaphores that are left in /dev/shm take some bytes each."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a reclaim gave back."""

    name: str
    ended_pids: tuple[int, ...]
    freed_bytes: Mapping[int, int]
    """By GPU index; empty where it cannot be told."""
    freed_rss_bytes: int
    seconds: float
    left_pids: tuple[int, ...] = ()
    """Processes that outlived SIGKILL: they hang in a driver."""
    left_bytes: Mapping[int, int] | None = None
    """What the GPUs still list for the ended processes; ``None`` where it cannot be told."""


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

    async def reclaim(self, leftover_id: str) -> Receipt:
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
            receipt = await self._end(found)
            await self.scan()
            return receipt

    async def _end(self, found: Leftover) -> Receipt:
        began = time.monotonic()
        before = held_by_device(found.pids, self._devices())
        left_pids: tuple[int, ...] = ()
        if found.marker:
            left_pids = await LocalServerHandle(_record_of(found)).kill()
        else:
            await asyncio.to_thread(remove_leavings, found.tmpdir)
        left_bytes = await self._until_memory_is_back(found.pids, began) if before else {}
        seconds = time.monotonic() - began
        freed = {index: held for index, held in before.items() if held is not None}
        if left_bytes:
            freed = {index: max(0, held - left_bytes.get(index, 0)) for index, held in freed.items()}
        log.info("reclaimed what was left of %s: pids %s in %.1f s", found.name, found.pids, seconds)
        return Receipt(found.name, found.pids, freed, found.rss_bytes, seconds, left_pids, left_bytes)

    async def _until_memory_is_back(self, pids: Sequence[int], began: float) -> Mapping[int, int] | None:
        """Waits until no GPU lists the pids; what they still hold when patience is over."""
        if self._sampler is None:
            return None
        while True:
            try:
                reading: Reading = await self._sampler.next_reading()
            except ManagerClosed:
                return None
            held = {index: size or 0 for index, size in held_by_device(pids, reading.devices).items()}
            if not held or time.monotonic() - began > _MEMORY_PATIENCE:
                return held

    def _devices(self) -> Sequence[DeviceSnapshot]:
        latest = self._sampler.latest if self._sampler else None
        return latest.devices if latest else ()


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
    """What these processes hold, by GPU index, without the others; ``None`` where the driver hides a figure."""
    found: dict[int, int | None] = {}
    for device in devices:
        held = [process.used_gpu_memory_bytes for process in device.processes or () if process.pid in pids]
        if held:
            known = [size for size in held if size is not None]
            found[device.index] = sum(known) if len(known) == len(held) else None
    return found
