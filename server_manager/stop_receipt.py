"""The proof of an end: what memory the server held, what of it came back, and how long that took."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from server_manager.errors import ManagerClosed
from server_manager.telemetry.base import DeviceSnapshot, Reading
from server_manager.units import gib

_PATIENCE_SECONDS = 10.0
"""A driver takes back the memory of a process that has ended within some tenths of a second."""
_ESTIMATE_SECONDS = 1.0
"""An estimate waits so long for the first memory to come back: nobody tells whether there was any."""
_TOLERANCE_BYTES = 64 * 2**20
"""Figures of NVML are rounded, and the driver keeps a little for each process that comes and goes."""


class Readings(Protocol):
    """The sampler, as far as servers need it."""

    @property
    def latest(self) -> Reading | None: ...

    async def fresh_reading(self) -> Reading:
        """One that was begun after this call. Raises ``ManagerClosed``."""


@dataclass(frozen=True, slots=True)
class StopReceipt:
    """What came back when a server ended."""

    where: str
    """``gpu`` or, on a machine without one, ``ram`` (resident memory of its processes)."""
    held_bytes: int
    """What the server held just before its end, over all devices."""
    freed_bytes: int
    seconds: float
    """From the wish that it should end (or its own end) until the memory was back."""
    estimated: bool = False
    """Whether it is the difference of the devices' totals, because the driver shows no process of ours."""
    left: tuple[str, ...] = ()
    """What still holds memory, in words: normally nothing."""


class ReceiptTaker:
    """Made just before processes end; ``finish()`` waits until their memory is back."""

    def __init__(
        self,
        readings: Readings,
        pids: Collection[int],
        rss_bytes: int,
        gpu_bytes: int | None,
        began: float | None = None,
    ) -> None:
        """What the processes hold; ``gpu_bytes`` is ``None`` where the driver does not show which are theirs.

        ``began`` is the ``time.monotonic()`` from which the seconds count; now, if not given.
        """
        self._readings = readings
        self._began = time.monotonic() if began is None else began
        self._before = readings.latest
        self._pids = frozenset(pids)
        self._rss = rss_bytes
        self._estimated = gpu_bytes is None
        self._held = gpu_bytes or 0

    @classmethod
    def of_server(cls, name: str, readings: Readings, began: float | None = None) -> ReceiptTaker:
        """For a server that the readings know."""
        before = readings.latest
        if before is None:
            return cls(readings, (), 0, None, began)
        return cls(
            readings, before.pids.get(name, ()), before.rss_bytes.get(name, 0), before.gpu_bytes.get(name), began
        )

    async def finish(self) -> StopReceipt | None:
        """The receipt; ``None`` where nothing is known of what the server held."""
        before = self._before
        if before is None:
            return None
        if not before.devices:
            return StopReceipt("ram", self._rss, self._rss, self._seconds()) if self._rss else None
        if not self._held and not self._estimated:
            return None
        try:
            return await self._when_back(before)
        except ManagerClosed:
            return None

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    async def _when_back(self, before: Reading) -> StopReceipt | None:
        looking_since = time.monotonic()
        deadline = looking_since + _PATIENCE_SECONDS
        used_before = {device.index: device.memory_used_bytes for device in before.devices}
        seen: list[int] = []
        while True:
            now = await self._readings.fresh_reading()
            devices = [device for device in now.devices if not device.error]
            if not devices:  # the driver does not answer (any more)
                return None
            if self._estimated:
                seen.append(_freed(devices, used_before))
                # Nobody says what is ours: it is over when two looks in a row find the same.
                begun = seen[-1] > _TOLERANCE_BYTES or time.monotonic() - looking_since > _ESTIMATE_SECONDS
                over = begun and len(seen) > 1 and seen[-1] - seen[-2] < _TOLERANCE_BYTES
                if over or time.monotonic() > deadline:
                    freed = max(0, seen[-1])
                    return StopReceipt("gpu", freed, freed, self._seconds(), estimated=True) if freed else None
                continue
            left = [text for device in devices for text in self._still_held(device)]
            freed = min(self._held, max(0, _freed(devices, used_before)))
            accounted = all(device.is_accounted_for for device in devices)
            back = not left and (accounted or freed >= self._held - _TOLERANCE_BYTES)
            if back:
                return StopReceipt("gpu", self._held, self._held, self._seconds())
            if time.monotonic() > deadline:
                left = left or [f"{gib(self._held - freed)} that the driver names no process for"]
                return StopReceipt("gpu", self._held, freed, self._seconds(), left=tuple(left))

    def _still_held(self, device: DeviceSnapshot) -> list[str]:
        return [
            f"pid {process.pid} ({process.name or 'gone'}): {gib(process.used_gpu_memory_bytes)} of GPU {device.index}"
            for process in device.processes or ()
            if process.pid in self._pids
        ]


def _freed(devices: list[DeviceSnapshot], used_before: Mapping[int, int | None]) -> int:
    """By how much less of the devices is used than before, in bytes; negative where others took more."""
    return sum((used_before.get(device.index) or 0) - (device.memory_used_bytes or 0) for device in devices)
