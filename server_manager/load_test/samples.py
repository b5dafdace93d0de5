"""What GPUs and server do while a level runs, once a second: from the one sampler and from ``/metrics``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import fields, replace

from server_manager.client import ServerMetrics
from server_manager.errors import ServerManagerError
from server_manager.load_test.bench import Bench
from server_manager.load_test.run import Samples
from server_manager.manager import Server
from server_manager.telemetry.base import DeviceSnapshot, Reading

INTERVAL_SECONDS = 1.0
MOST_SAMPLES = 20_000


class SampleTaker:
    """Looks at one server; each look is told to ``on_change`` with all of them."""

    def __init__(self, server: Server, bench: Bench, on_change: Callable[[Samples], None]) -> None:
        self._server = server
        self._bench = bench
        self._on_change = on_change
        self._samples = Samples()
        self._began = time.monotonic()
        self._before: tuple[float, float] | None = None
        """When the server was last asked for its tokens, and how many there were."""

    def begin(self) -> None:
        """From now on time is counted."""
        self._began = time.monotonic()

    async def follow(self) -> None:
        """Looks once a second until it is cancelled."""
        due = time.monotonic()
        while len(self._samples.t) < MOST_SAMPLES:
            await self.look()
            due = max(due + INTERVAL_SECONDS, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def look(self) -> None:
        """Looks once."""
        now = time.monotonic()
        try:
            metrics = await self._server.client().metrics()
        except (ServerManagerError, ValueError):  # it ends in this moment, or its figures are no numbers
            metrics = None
        reading = self._bench.readings.latest
        name, ours = self._server.name, not self._server.status.attached
        one = Samples(
            t=(round(now - self._began, 2),),
            gpu_utilization=(_utilization(reading, self._server),),
            gpu_memory_bytes=(self._bench.gpu_bytes(name) if ours else None,),
            rss_bytes=(reading.rss_bytes.get(name) if reading and ours else None,),
            kv_cache_usage=(metrics.kv_cache_usage_perc if metrics else None,),
            num_requests_running=(metrics.num_requests_running if metrics else None,),
            num_requests_waiting=(metrics.num_requests_waiting if metrics else None,),
            output_tokens_per_s=(self._rate(now, metrics),),
        )
        grown = {field.name: getattr(self._samples, field.name) + getattr(one, field.name) for field in fields(Samples)}
        self._samples = replace(self._samples, **grown)
        self._on_change(self._samples)

    def _rate(self, now: float, metrics: ServerMetrics | None) -> float | None:
        total = metrics.generation_tokens_total if metrics else None
        if total is None:
            return None
        before, self._before = self._before, (now, total)
        if before is None or now <= before[0] or total < before[1]:
            return None
        return round((total - before[1]) / (now - before[0]), 2)


def devices_of(reading: Reading | None, server: Server) -> list[DeviceSnapshot]:
    """The GPUs that hold memory of the server's processes. Where the driver hides those: the only GPU, else none."""
    if reading is None or server.status.attached:
        return []
    pids = set(reading.pids.get(server.name, ()))
    found = [device for device in reading.devices if any(each.pid in pids for each in device.processes or ())]
    return found or (list(reading.devices) if len(reading.devices) == 1 else [])


def _utilization(reading: Reading | None, server: Server) -> float | None:
    values = [device.utilization_gpu_percent for device in devices_of(reading, server)]
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 1) if known else None
