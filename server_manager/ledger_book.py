"""The memory of every GPU and of the machine by owner, made from the newest reading whenever somebody asks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from server_manager.errors import ManagerClosed
from server_manager.pid_namespace import in_own_pid_namespace
from server_manager.reclaim import Leftovers
from server_manager.server_state import ServerState, ServerStatus
from server_manager.telemetry.base import Reading
from server_manager.telemetry.differences import DifferenceTracker
from server_manager.telemetry.ledger import Claim, MemoryLedger, OwnerKind, device_ledgers, host_ledger
from server_manager.telemetry.sampler import GpuSampler

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Who holds what, at one moment."""

    devices: tuple[MemoryLedger, ...] = ()
    """By position as in ``Reading.devices``."""
    host: MemoryLedger | None = None

    def estimate_of(self, name: str) -> int | None:
        """What a server holds on all GPUs together, where that is estimated; ``None`` where it is not, or not known."""
        owners = [
            owner
            for device in self.devices
            for owner in device.owners
            if owner.kind is OwnerKind.SERVER and owner.name == name
        ]
        known = [owner.held_bytes for owner in owners if owner.held_bytes is not None]
        return sum(known) if any(owner.estimated for owner in owners) and len(known) == len(owners) else None


class LedgerBook:
    """Follows the readings, so that it knows each GPU's memory before a server was started."""

    def __init__(
        self, sampler: GpuSampler, statuses: Callable[[], Mapping[str, ServerStatus]], leftovers: Leftovers
    ) -> None:
        self._sampler = sampler
        self._statuses = statuses
        self._leftovers = leftovers
        self._differences = DifferenceTracker(time.time())
        self._may_hide = in_own_pid_namespace()
        self._taken = 0.0
        """The time of the last reading that was."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to follow the readings."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="ledger")

    async def stop(self) -> None:
        """Ends that. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    def of(self, reading: Reading | None) -> Ledger:
        """The ledger of a reading, with what is known of the servers now."""
        if reading is None:
            return Ledger()
        self._take(reading)  # it may have been made for somebody in a hurry, and not have come round to us yet
        claims = self._claims(reading)
        return Ledger(
            device_ledgers(reading.devices, claims, may_hide=self._may_hide), host_ledger(reading.host, claims)
        )

    def gpu_bytes(self, name: str) -> int | None:
        """What a server holds on all GPUs now, estimated where the driver hides it; ``None`` where nobody can tell."""
        reading = self._sampler.latest
        told = reading.gpu_bytes.get(name) if reading else None
        return told if told is not None else self.of(reading).estimate_of(name)

    def _claims(self, reading: Reading) -> list[Claim]:
        servers = [
            Claim(
                name,
                frozenset(reading.pids.get(name, ())),
                asleep=status.state is ServerState.ASLEEP,
                memory=status.memory,
                rss_bytes=reading.rss_bytes.get(name, 0),
                differences=self._differences.held(name),
            )
            for name, status in self._statuses().items()
            if reading.pids.get(name)
        ]
        left = [
            Claim(found.name, frozenset(found.pids), leftover_id=found.id, rss_bytes=found.rss_bytes, differences={})
            for found in self._leftovers.latest.leftovers
            if any(os.path.exists(f"/proc/{pid}") for pid in found.pids)
        ]
        return servers + left

    async def _follow(self) -> None:
        with contextlib.suppress(ManagerClosed):
            while True:
                self._take(await self._sampler.next_reading())

    def _take(self, reading: Reading) -> None:
        if reading.devices and reading.time > self._taken:
            self._taken = reading.time
            self._differences.take(reading.devices, self._statuses().values(), time.time())
