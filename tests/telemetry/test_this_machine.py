"""The real machine, whatever it is: with or without an NVIDIA driver."""

from __future__ import annotations

import asyncio
import os

import psutil
import pytest

from server_manager.launchers.base import ProcessInfo
from server_manager.telemetry import open_probe
from server_manager.telemetry.sampler import GpuSampler


async def test_this_machine_is_told_truly() -> None:
    rss = psutil.Process().memory_info().rss
    sampler = GpuSampler(open_probe, lambda: {"tests": [ProcessInfo(os.getpid(), "pytest", rss)]}, read_timeout=60)
    sampler.start()
    try:
        reading = await asyncio.wait_for(sampler.next_reading(), 90)
    finally:
        await sampler.stop()

    memory = psutil.virtual_memory()
    assert 0 < reading.host.memory_total_bytes <= memory.total
    if reading.host.memory_total_bytes == memory.total:  # no container limit
        assert reading.host.memory_available_bytes == pytest.approx(memory.available, abs=memory.total // 10)
    assert reading.host.cpu_count == psutil.cpu_count()
    assert reading.rss_bytes == {"tests": rss}

    if reading.devices_error is None:
        assert any((device.memory_total_bytes or 0) > 1 << 30 for device in reading.devices)
    else:
        assert reading.devices == ()
        assert "NVIDIA" in reading.devices_error
        assert reading.devices_error.endswith(".")
        assert reading.gpu_bytes == {"tests": None}
