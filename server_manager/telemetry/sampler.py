"""One reading of GPUs, host and servers per interval, for any number of readers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from server_manager.errors import ManagerClosed, TelemetryError
from server_manager.launchers.base import ProcessInfo
from server_manager.telemetry._calls import OneAtATime
from server_manager.telemetry.base import AcceleratorProbe, DeviceSnapshot, Reading
from server_manager.telemetry.host import HostProbe

logger = logging.getLogger(__name__)

Owners = Mapping[str, Iterable[ProcessInfo]]
"""Server name to its living processes."""


FRESH_INTERVAL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """What the plots need of one ``Reading``: about 150 bytes of JSON with one GPU and one server."""

    time: float
    """Unix time in seconds."""
    memory_used_bytes: tuple[int | None, ...]
    """By position in ``Reading.devices``; empty while there are none."""
    utilization_gpu_percent: tuple[int | None, ...]
    """Likewise."""
    host_memory_used_bytes: int
    rss_bytes: dict[str, int]
    gpu_bytes: dict[str, int | None]

    @classmethod
    def of(cls, reading: Reading) -> HistoryPoint:
        return cls(
            time=reading.time,
            memory_used_bytes=tuple(device.memory_used_bytes for device in reading.devices),
            utilization_gpu_percent=tuple(device.utilization_gpu_percent for device in reading.devices),
            host_memory_used_bytes=reading.host.memory_used_bytes,
            rss_bytes=reading.rss_bytes,
            gpu_bytes=reading.gpu_bytes,
        )


def gpu_bytes_by_server(
    devices: Sequence[DeviceSnapshot], owners: Mapping[str, Sequence[ProcessInfo]]
) -> dict[str, int | None]:
    """Device memory of each server: what its pids hold, summed over devices.

    ``None`` where it cannot be told: no device answers, the driver hides a figure, or no pid matches while some
    process is hidden or belongs to another pid namespace (a container without the host's, NVIDIA/nvidia-docker#179).
    """
    listed = [process for device in devices for process in device.processes or ()]
    answering = [device for device in devices if device.error is None]
    all_seen = (
        bool(answering)
        and all(device.is_accounted_for for device in answering)
        and all(process.name is not None for process in listed)
    )
    result: dict[str, int | None] = {}
    for name, processes in owners.items():
        pids = {process.pid for process in processes}
        held = [process.used_gpu_memory_bytes for process in listed if process.pid in pids]
        known = [used for used in held if used is not None]
        if held:
            result[name] = sum(known) if len(known) == len(held) else None
        else:
            result[name] = 0 if answering and (all_seen or not pids) else None
    return result


class GpuSampler:
    """Reads once per ``interval`` seconds and keeps the newest reading and a bounded history.

    ``probe_opener`` is called until it returns a probe, every ``retry_after`` seconds; it and ``probe.read()`` run in
    one thread, ``owners`` in another, so that a driver that hangs stops neither the page nor the other figures. A
    read that takes longer than the interval is waited for up to ``read_timeout`` seconds; no second one is started
    beside it. Whatever goes wrong with the devices stands in ``Reading.devices_error``. A server whose processes
    cannot be read is left out of ``rss_bytes`` and ``gpu_bytes``.

    All methods belong to the event loop's thread. ``clock`` counts seconds for the retry and the timeout.
    """

    def __init__(
        self,
        probe_opener: Callable[[], AcceleratorProbe],
        owners: Callable[[], Owners],
        interval: float = 1.0,
        history_samples: int = 600,
        *,
        retry_after: float = 30.0,
        read_timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.latest: Reading | None = None
        self._interval = interval
        self._history: deque[HistoryPoint] = deque(maxlen=history_samples)
        self._host = HostProbe()
        self._source = _DeviceSource(probe_opener, retry_after, clock)
        self._devices = OneAtATime("The GPU driver", self._source.read, read_timeout, clock)
        self._owners = OneAtATime("The list of server processes", lambda: _listed(owners()), read_timeout, clock)
        self._owners_error = ""
        self._published = asyncio.Event()
        self._wanted = asyncio.Event()
        self._reading = False
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Starts sampling on the current event loop; the first reading comes at once."""
        if self._task is None and not self._stopped:
            self._task = asyncio.create_task(self._run(), name="gpu-sampler")

    async def stop(self) -> None:
        """Ends sampling, releases the driver's library and ends every wait. May be called twice.

        Waits a second at most for a read under way; a driver that hangs is left behind in its daemon thread.
        """
        self._stopped = True
        self._published.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
            if await self._devices.idle(timeout=1.0):
                await asyncio.to_thread(self._source.close)

    def history(self, since: float = 0.0) -> list[HistoryPoint]:
        """The points after ``since`` (Unix time in seconds), oldest first, at most ``history_samples``."""
        return [point for point in self._history if point.time > since]

    async def next_reading(self) -> Reading:
        """Waits for the next reading. Raises ``ManagerClosed`` once the sampler is stopped."""
        if not self._stopped:
            await self._published.wait()
        if self._stopped or self.latest is None:
            raise ManagerClosed("The GPU figures have ended, because the app is shutting down.")
        return self.latest

    async def fresh_reading(self) -> Reading:
        """A reading that was begun after this call, without waiting for the interval. Raises ``ManagerClosed``."""
        under_way = self._reading
        self._wanted.set()
        if under_way:
            await self.next_reading()
            self._wanted.set()
        return await self.next_reading()

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            self._wanted.clear()
            self._reading = True
            try:
                self._publish(await self._read())
            except Exception:  # say, no file descriptor is left: the next reading may go well again
                logger.exception("One reading of the GPU figures failed.")
            finally:
                self._reading = False
            # One that was asked for early must not put off those that come by themselves.
            due = min(max(due + self._interval, time.monotonic()), time.monotonic() + self._interval)
            # Whoever waits for memory to come back asks again and again: not more often than this.
            await asyncio.sleep(min(FRESH_INTERVAL_SECONDS, due - time.monotonic()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due - time.monotonic()):
                    await self._wanted.wait()

    async def _read(self) -> Reading:
        owners, (devices, error) = await asyncio.gather(self._read_owners(), self._read_devices())
        return Reading(
            time=time.time(),
            host=await asyncio.to_thread(self._host.read),
            devices=devices,
            devices_error=error,
            rss_bytes={name: sum(process.rss_bytes for process in processes) for name, processes in owners.items()},
            gpu_bytes=gpu_bytes_by_server(devices, owners),
            pids={name: tuple(process.pid for process in processes) for name, processes in owners.items()},
        )

    async def _read_devices(self) -> tuple[tuple[DeviceSnapshot, ...], str | None]:
        try:
            return await self._devices(), None
        except TelemetryError as error:
            return (), str(error)

    async def _read_owners(self) -> dict[str, tuple[ProcessInfo, ...]]:
        try:
            owners, error_text = await self._owners(), ""
        except TelemetryError as error:
            owners, error_text = {}, str(error)
        if error_text != self._owners_error:
            self._owners_error = error_text
            logger.warning(error_text or "The list of server processes can be read again.")
        return owners

    def _publish(self, reading: Reading) -> None:
        before = self.latest.devices_error if self.latest else None
        if reading.devices_error and reading.devices_error != before:
            logger.info(reading.devices_error)
        self.latest = reading
        if not self._history or reading.time - self._history[-1].time > 0.5 * self._interval:
            self._history.append(HistoryPoint.of(reading))
        published, self._published = self._published, asyncio.Event()
        published.set()


def _listed(owners: Owners) -> dict[str, tuple[ProcessInfo, ...]]:
    return {name: tuple(processes) for name, processes in owners.items()}


class _DeviceSource:
    """The probe, opened when it can be. Used by one thread at a time."""

    def __init__(
        self, probe_opener: Callable[[], AcceleratorProbe], retry_after: float, clock: Callable[[], float]
    ) -> None:
        self._open = probe_opener
        self._retry_after = retry_after
        self._clock = clock
        self._probe: AcceleratorProbe | None = None
        self._failure: tuple[float, Exception] | None = None  # when it could not be opened, and why

    def read(self) -> tuple[DeviceSnapshot, ...]:
        """Raises what ``probe_opener`` or ``probe.read()`` raises; the former is asked again after ``retry_after``."""
        if self._probe is None:
            if self._failure and self._clock() - self._failure[0] < self._retry_after:
                raise self._failure[1]
            try:
                self._probe = self._open()
            except Exception as error:
                self._failure = self._clock(), error
                raise
            self._failure = None
        return self._probe.read()

    def close(self) -> None:
        if self._probe is not None:
            self._probe.close()
