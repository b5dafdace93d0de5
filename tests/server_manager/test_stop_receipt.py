"""The receipt of an end: what was held, what came back, and what has not."""

from __future__ import annotations

import pytest
from fakes import FakeReadings

from server_manager import stop_receipt
from server_manager.stop_receipt import ReceiptTaker, StopReceipt
from server_manager.telemetry.base import DeviceProcess, DeviceSnapshot

GIB = 2**30
OURS, OTHERS = 501, 900


def gpu(*held: tuple[int, float | None], index: int = 0, hidden: float = 0.5, listed: bool = True) -> DeviceSnapshot:
    """A GPU whose processes hold so many GiB; ``hidden`` GiB belong to nobody, ``listed``: NVML lists processes."""
    used = int((hidden + sum(gib or 0 for _, gib in held)) * GIB)
    processes = tuple(
        DeviceProcess(pid, None if gib is None else int(gib * GIB), "VLLM::EngineCore") for pid, gib in held
    )
    return DeviceSnapshot(
        index, f"GPU-{index}", "H100", 80 * GIB, used, 80 * GIB - used, processes=processes if listed else None
    )


async def receipt_of(
    before: list[DeviceSnapshot], *after: list[DeviceSnapshot], held: float | None, pids: tuple[int, ...] = (500, OURS)
) -> StopReceipt | None:
    readings = FakeReadings()
    readings.devices = before
    readings.pids = {"m": pids}
    readings.gpu_bytes = {"m": None if held is None else int(held * GIB)}
    taker = ReceiptTaker.of_server("m", readings)
    readings.script = list(after)
    return await taker.finish()


async def test_all_of_it_came_back() -> None:
    found = await receipt_of([gpu((OURS, 14.25), (OTHERS, 3))], [gpu((OTHERS, 3))], held=14.25)
    assert found is not None
    assert (found.where, found.held_bytes, found.freed_bytes) == ("gpu", int(14.25 * GIB), int(14.25 * GIB))
    assert found.left == ()
    assert not found.estimated


async def test_it_is_waited_for() -> None:
    still = [gpu((OURS, 14), (OTHERS, 3))]
    found = await receipt_of(still, still, still, [gpu((OTHERS, 3))], held=14)
    assert found is not None
    assert found.freed_bytes == 14 * GIB


async def test_memory_that_somebody_else_takes_meanwhile_counts_as_back() -> None:
    found = await receipt_of([gpu((OURS, 14), (OTHERS, 3))], [gpu((OTHERS, 30))], held=14)
    assert found is not None
    assert (found.freed_bytes, found.left) == (14 * GIB, ())


async def test_over_two_gpus() -> None:
    before = [gpu((OURS, 20), index=0), gpu((502, 21), index=1)]
    found = await receipt_of(before, [gpu(index=0), gpu(index=1)], held=41, pids=(500, OURS, 502))
    assert found is not None
    assert found.freed_bytes == 41 * GIB


async def test_what_does_not_come_back_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_receipt, "_PATIENCE_SECONDS", 0.02)
    stuck = [gpu((OURS, 2), (OTHERS, 3))]
    found = await receipt_of([gpu((OURS, 14), (OTHERS, 3))], stuck, held=14)
    assert found is not None
    assert found.freed_bytes == 12 * GIB
    assert found.left == ("pid 501 (VLLM::EngineCore): 2.00 GiB of GPU 0",)


async def test_memory_that_stays_without_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a hung driver: the processes are gone from the list, and the memory is still used."""
    monkeypatch.setattr(stop_receipt, "_PATIENCE_SECONDS", 0.02)
    found = await receipt_of([gpu((OURS, 14))], [gpu(hidden=14.5)], held=14)
    assert found is not None
    assert found.freed_bytes == 0
    assert found.left == ("14.00 GiB that the driver names no process for",)


async def test_container_that_hides_processes_gives_an_estimate() -> None:
    before, after = [gpu(hidden=30, listed=False)], [gpu(hidden=16, listed=False)]
    found = await receipt_of(before, before, after, after, held=None)
    assert found is not None
    assert found.estimated
    assert found.freed_bytes == 14 * GIB


async def test_without_a_gpu_it_is_the_resident_memory() -> None:
    readings = FakeReadings()
    readings.rss_bytes = {"m": 3 * GIB}
    found = await ReceiptTaker.of_server("m", readings).finish()
    assert found is not None
    assert (found.where, found.freed_bytes) == ("ram", 3 * GIB)


@pytest.mark.parametrize("devices", [[], [gpu((OTHERS, 3))]])
async def test_server_that_held_nothing_has_none(devices: list[DeviceSnapshot]) -> None:
    readings = FakeReadings()
    readings.devices = devices
    readings.gpu_bytes = {"m": 0}
    assert await ReceiptTaker.of_server("m", readings).finish() is None


async def test_driver_that_stops_answering_has_none() -> None:
    lost = [DeviceSnapshot(0, "GPU-0", "H100", error="This GPU has fallen off the bus.")]
    assert await receipt_of([gpu((OURS, 14))], lost, held=14) is None
