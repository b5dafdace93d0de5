"""The sampler: one reading for everybody, whatever the driver does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec
import pytest
from fake_pynvml import GIB, FakeGpu, FakePynvml

from server_manager.errors import ManagerClosed, TelemetryError
from server_manager.launchers.base import ProcessInfo
from server_manager.telemetry import open_probe
from server_manager.telemetry.base import AcceleratorProbe, DeviceProcess, DeviceSnapshot, Reading
from server_manager.telemetry.sampler import GpuSampler, gpu_bytes_by_server

INTERVAL = 0.01
PATIENCE = 30.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Probe:
    """Answers with ``devices``, or does what ``read_hook`` does."""

    def __init__(self) -> None:
        self.devices = (DeviceSnapshot(0, "GPU-aaaa", "H100", memory_used_bytes=GIB, utilization_gpu_percent=5),)
        self.read_hook: Callable[[], None] = lambda: None
        self.reads = 0
        self.closed = 0

    def read(self) -> tuple[DeviceSnapshot, ...]:
        self.reads += 1
        self.read_hook()
        return self.devices

    def close(self) -> None:
        self.closed += 1


def no_owners() -> Mapping[str, tuple[ProcessInfo, ...]]:
    return {}


@asynccontextmanager
async def sampling(sampler: GpuSampler) -> AsyncIterator[GpuSampler]:
    sampler.start()
    try:
        yield sampler
    finally:
        await sampler.stop()


async def until(sampler: GpuSampler, seen: Callable[[Reading], bool]) -> Reading:
    async with asyncio.timeout(PATIENCE):
        while True:
            reading = await sampler.next_reading()
            if seen(reading):
                return reading


async def test_a_reading_holds_devices_host_and_servers(pynvml: FakePynvml) -> None:
    pynvml.gpus = [FakeGpu(compute=[(501, 20 * GIB), (900, 2 * GIB)]), FakeGpu(compute=[(502, 21 * GIB)])]
    owners = {"qwen": (ProcessInfo(500, "vllm", 100), ProcessInfo(501, "a", 10), ProcessInfo(502, "b", 1))}
    async with sampling(GpuSampler(open_probe, lambda: owners, INTERVAL)) as sampler:
        reading = await until(sampler, lambda _: True)
    assert reading.devices_error is None
    assert [device.memory_total_bytes for device in reading.devices] == [80 * GIB, 80 * GIB]
    assert reading.rss_bytes == {"qwen": 111}
    assert reading.gpu_bytes == {"qwen": 41 * GIB}
    assert reading.host.memory_total_bytes > 0
    assert pynvml.reference_count == 0  # released by stop()


async def test_readings_and_history_are_json(pynvml: FakePynvml) -> None:
    pynvml.gpus[0].compute = [(501, 20 * GIB)]
    owners = {"qwen": (ProcessInfo(501, "a", 10),)}
    async with sampling(GpuSampler(open_probe, lambda: owners, INTERVAL)) as sampler:
        reading = await until(sampler, lambda _: True)
        history = sampler.history()
    told = json.loads(msgspec.json.encode(reading))
    (process,) = told["devices"][0]["processes"]
    assert (process["pid"], process["used_gpu_memory_bytes"]) == (501, 20 * GIB)
    assert told["host"]["memory_total_bytes"] == reading.host.memory_total_bytes
    assert json.loads(msgspec.json.encode(history))[0] == {
        "time": history[0].time,
        "memory_used_bytes": [30 * GIB],
        "utilization_gpu_percent": [87],
        "host_memory_used_bytes": history[0].host_memory_used_bytes,
        "rss_bytes": {"qwen": 10},
        "gpu_bytes": {"qwen": 20 * GIB},
    }


async def test_history_is_bounded_and_can_be_asked_for_in_part() -> None:
    probe = Probe()
    async with sampling(GpuSampler(lambda: probe, no_owners, INTERVAL, history_samples=5)) as sampler:
        await until(sampler, lambda _: probe.reads > 8)
        history = sampler.history()
        assert len(history) == 5
        assert [point.time for point in history] == sorted(point.time for point in history)
        assert sampler.latest is not None
        assert history[-1].time <= sampler.latest.time  # one that comes early after a late one is left out
        assert sampler.history(since=history[2].time) == history[3:]


async def test_many_readers_cost_one_read() -> None:
    probe = Probe()
    async with sampling(GpuSampler(lambda: probe, no_owners, interval=3600)) as sampler:
        readings = await asyncio.wait_for(asyncio.gather(*(sampler.next_reading() for _ in range(100))), PATIENCE)
    assert probe.reads == 1
    assert all(reading is readings[0] for reading in readings)


async def test_a_reading_asked_for_early_is_begun_after_the_question() -> None:
    probe = Probe()
    async with sampling(GpuSampler(lambda: probe, no_owners, interval=3600)) as sampler:
        await asyncio.wait_for(sampler.next_reading(), PATIENCE)
        probe.devices = ()
        assert (await asyncio.wait_for(sampler.fresh_reading(), PATIENCE)).devices == ()


async def test_readings_asked_for_early_put_off_none_that_come_by_themselves() -> None:
    """Else the page shows old figures after every stop, which asks again and again until the memory is free."""
    async with sampling(GpuSampler(Probe, no_owners, interval=1)) as sampler:
        for _ in range(2 * int(PATIENCE)):
            await asyncio.wait_for(sampler.fresh_reading(), PATIENCE)
        await asyncio.wait_for(sampler.next_reading(), PATIENCE)


async def test_without_a_driver_the_reason_is_told_and_it_is_looked_for_again() -> None:
    clock, probe, opened = Clock(), Probe(), []

    def opener() -> AcceleratorProbe:
        opened.append(clock.now)
        if clock.now < 60:
            raise TelemetryError("No NVIDIA driver is installed on this machine.")
        return probe

    async with sampling(GpuSampler(opener, no_owners, INTERVAL, retry_after=30, clock=clock)) as sampler:
        for _ in range(5):
            reading = await until(sampler, lambda _: True)
            assert reading.devices == ()
            assert reading.devices_error == "No NVIDIA driver is installed on this machine."
            assert reading.host.memory_total_bytes > 0
        assert opened == [0.0]
        clock.now = 30.0
        await until(sampler, lambda _: len(opened) == 2)
        clock.now = 60.0
        reading = await until(sampler, lambda reading: bool(reading.devices))
        assert reading.devices_error is None
        assert opened == [0.0, 30.0, 60.0]


@pytest.mark.parametrize(
    "error", [TelemetryError("The driver is gone.", "Reboot."), ZeroDivisionError("of the vendor")]
)
async def test_a_read_that_raises_is_told_and_the_next_one_counts(error: Exception) -> None:
    probe = Probe()

    def fail() -> None:
        raise error

    async with sampling(GpuSampler(lambda: probe, no_owners, INTERVAL)) as sampler:
        await until(sampler, lambda reading: reading.devices_error is None)
        probe.read_hook = fail
        reading = await until(sampler, lambda reading: reading.devices_error is not None)
        assert reading.devices == ()
        assert str(error) in str(reading.devices_error)
        probe.read_hook = lambda: None
        await until(sampler, lambda reading: reading.devices == probe.devices and reading.devices_error is None)


async def test_a_driver_that_hangs_stops_nothing_else_and_is_not_asked_twice() -> None:
    probe, hanging, released = Probe(), threading.Event(), threading.Event()
    owners = {"qwen": (ProcessInfo(500, "vllm", 100),)}

    def hang() -> None:
        hanging.set()
        released.wait()

    try:
        async with sampling(GpuSampler(lambda: probe, lambda: owners, INTERVAL, read_timeout=0.2)) as sampler:
            await until(sampler, lambda reading: bool(reading.devices))
            probe.read_hook = hang
            await until(sampler, lambda reading: hanging.is_set() and reading.devices_error is not None)
            asked = probe.reads
            for _ in range(3):
                reading = await until(sampler, lambda reading: reading.rss_bytes == {"qwen": 100})
                assert "has not answered for" in str(reading.devices_error)
                assert reading.devices == ()
                assert reading.gpu_bytes == {"qwen": None}
                assert reading.host.memory_total_bytes > 0
            assert probe.reads == asked
            released.set()
            await until(sampler, lambda reading: bool(reading.devices))
    finally:
        released.set()


async def test_stopping_does_not_wait_for_a_driver_that_hangs() -> None:
    probe, released = Probe(), threading.Event()
    probe.read_hook = lambda: (released.wait(), None)[1]
    sampler = GpuSampler(lambda: probe, no_owners, INTERVAL, read_timeout=0.05)
    sampler.start()
    try:
        await until(sampler, lambda reading: reading.devices_error is not None)
        await asyncio.wait_for(sampler.stop(), PATIENCE)
        assert probe.closed == 0  # closing under a read would crash the vendor's library
    finally:
        released.set()


async def test_a_list_of_servers_that_raises_costs_the_servers_figures_only() -> None:
    probe, broken = Probe(), True

    def owners() -> Mapping[str, tuple[ProcessInfo, ...]]:
        if broken:
            raise OSError("too many open files")
        return {"qwen": (ProcessInfo(500, "vllm", 100),)}

    async with sampling(GpuSampler(lambda: probe, owners, INTERVAL)) as sampler:
        reading = await until(sampler, lambda _: True)
        assert reading.devices == probe.devices
        assert reading.rss_bytes == {}
        broken = False
        await until(sampler, lambda reading: reading.rss_bytes == {"qwen": 100})


async def test_stop_ends_every_wait_and_closes_the_probe() -> None:
    probe = Probe()
    sampler = GpuSampler(lambda: probe, no_owners, interval=3600)
    sampler.start()
    await until(sampler, lambda _: True)
    waiting = asyncio.create_task(sampler.next_reading())
    await asyncio.sleep(0)
    await sampler.stop()
    await sampler.stop()
    with pytest.raises(ManagerClosed):
        await asyncio.wait_for(waiting, PATIENCE)
    with pytest.raises(ManagerClosed):
        await sampler.next_reading()
    assert probe.closed == 1


def device(processes: tuple[DeviceProcess, ...] | None, used: int = 0, error: str | None = None) -> DeviceSnapshot:
    return DeviceSnapshot(0, "GPU-aaaa", "H100", memory_used_bytes=used, processes=processes, error=error)


OURS = ProcessInfo(501, "VLLM::EngineCore", 10)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        pytest.param([device((DeviceProcess(501, 5, "a"), DeviceProcess(77, 9, "b")))], 5, id="ours and another's"),
        pytest.param([device((DeviceProcess(501, 5, "a"),)), device((DeviceProcess(501, 6, "a"),))], 11, id="two GPUs"),
        pytest.param([device((DeviceProcess(77, 9, "b"),))], 0, id="holds nothing yet"),
        pytest.param([device((DeviceProcess(501, None, "a"),))], None, id="figure hidden"),
        pytest.param([device((DeviceProcess(77, 9, None),))], None, id="pids of another namespace"),
        pytest.param([device(None)], None, id="list not supported"),
        pytest.param([device((), used=30 * GIB)], None, id="used memory without a process"),
        pytest.param([], None, id="no device answers"),
        pytest.param([device(None, error="lost")], None, id="the only device is lost"),
        pytest.param([device((DeviceProcess(501, 5, "a"),)), device(None, error="lost")], 5, id="another is lost"),
    ],
)
def test_pids_are_matched_to_servers(devices: list[DeviceSnapshot], expected: int | None) -> None:
    assert gpu_bytes_by_server(devices, {"qwen": [OURS]}) == {"qwen": expected}


def test_a_server_without_processes_holds_nothing() -> None:
    hiding = [device((DeviceProcess(77, 9, None),))]
    assert gpu_bytes_by_server(hiding, {"stopped": []}) == {"stopped": 0}
