"""The NVML probe over a stand-in for NVIDIA's library."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import fake_pynvml as nvml
import psutil
import pytest
from fake_pynvml import GIB, FakeGpu, FakePynvml

from server_manager.errors import TelemetryError
from server_manager.telemetry.base import DeviceProcess, DeviceSnapshot
from server_manager.telemetry.nvml import RESCAN_AFTER, NvmlProbe, open_probe

ABSENT_PID = 2**31 - 1
"""Above Linux's largest pid, as good as one of another namespace."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def read_one() -> DeviceSnapshot:
    (device,) = open_probe().read()
    return device


def plug_in_gpu(pci_devices: Path, vendor: str, device_class: str) -> None:
    folder = pci_devices / "0000:41:00.0"
    folder.mkdir()
    (folder / "vendor").write_text(vendor + "\n")
    (folder / "class").write_text(device_class + "\n")


def test_a_healthy_gpu_gives_every_figure(pynvml: FakePynvml) -> None:
    pynvml.gpus[0].compute = [(os.getpid(), 20 * GIB), (ABSENT_PID, 9 * GIB)]
    me = psutil.Process()
    assert read_one() == DeviceSnapshot(
        index=0,
        uuid="GPU-aaaa",
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 * GIB,
        memory_used_bytes=30 * GIB,
        memory_free_bytes=80 * GIB - 30 * GIB - GIB // 2,
        memory_reserved_bytes=GIB // 2,
        utilization_gpu_percent=87,
        temperature_gpu_celsius=61,
        power_usage_milliwatts=412_345,
        power_limit_milliwatts=700_000,
        processes=(
            DeviceProcess(os.getpid(), 20 * GIB, me.name(), me.username(), me.create_time()),
            DeviceProcess(ABSENT_PID, 9 * GIB, None),
        ),
    )


def test_a_process_that_computes_and_draws_is_listed_once(pynvml: FakePynvml) -> None:
    pynvml.gpus[0].compute = [(ABSENT_PID, 3 * GIB), (ABSENT_PID - 1, None)]
    pynvml.gpus[0].graphics = [(ABSENT_PID, 4 * GIB), (ABSENT_PID - 1, GIB)]
    assert read_one().processes == (
        DeviceProcess(ABSENT_PID - 1, GIB, None),
        DeviceProcess(ABSENT_PID, 4 * GIB, None),
    )


@pytest.mark.parametrize("hidden", [None, nvml.NOT_AVAILABLE])
def test_hidden_process_memory_is_unknown_not_huge(pynvml: FakePynvml, hidden: int | None) -> None:
    pynvml.gpus[0].compute = [(ABSENT_PID, hidden)]
    assert read_one().processes == (DeviceProcess(ABSENT_PID, None, None),)


def test_names_in_bytes(pynvml: FakePynvml) -> None:
    pynvml.gpus[0].name, pynvml.gpus[0].uuid = b"Tesla T4", b"GPU-bbbb"
    device = read_one()
    assert (device.name, device.uuid) == ("Tesla T4", "GPU-bbbb")


@pytest.mark.parametrize("code", [nvml.NOT_SUPPORTED, nvml.NO_PERMISSION, nvml.FUNCTION_NOT_FOUND, nvml.UNKNOWN])
def test_a_figure_that_the_driver_withholds_is_unknown_and_the_others_stay(pynvml: FakePynvml, code: int) -> None:
    withheld = [
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetGraphicsRunningProcesses",
    ]
    pynvml.gpus[0].fails = dict.fromkeys(withheld, code)
    device = read_one()
    assert device.error is None
    assert device.utilization_gpu_percent is None
    assert device.power_usage_milliwatts is None
    assert device.power_limit_milliwatts is None
    assert device.processes is None
    assert device.memory_used_bytes == 30 * GIB
    assert device.temperature_gpu_celsius == 61


def test_one_process_list_is_enough(pynvml: FakePynvml) -> None:
    pynvml.gpus[0].fails = {"nvmlDeviceGetGraphicsRunningProcesses": nvml.NOT_SUPPORTED}
    assert read_one().processes == ()


def test_an_old_driver_counts_what_it_reserves_as_used(pynvml: FakePynvml) -> None:
    pynvml.gpus[0].fails = {
        "nvmlDeviceGetMemoryInfo_v2": nvml.FUNCTION_NOT_FOUND,
        "nvmlDeviceGetTemperatureV": nvml.FUNCTION_NOT_FOUND,
    }
    device = read_one()
    assert device.memory_reserved_bytes is None
    assert device.memory_used_bytes == 30 * GIB + GIB // 2
    assert device.temperature_gpu_celsius == 61


def test_old_bindings_lack_some_calls(pynvml: FakePynvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FakePynvml, "nvmlMemory_v2")
    monkeypatch.delattr(FakePynvml, "nvmlDeviceGetTemperatureV")
    device = read_one()
    assert device.memory_total_bytes == 80 * GIB
    assert device.temperature_gpu_celsius == 61


def test_one_lost_gpu_of_two_keeps_its_name_and_loses_its_figures(pynvml: FakePynvml) -> None:
    pynvml.gpus.append(FakeGpu(uuid="GPU-cccc", name="NVIDIA L40S"))
    probe = open_probe()
    probe.read()
    pynvml.gpus[0].lost = True
    lost, well = probe.read()
    assert lost.error
    assert "fallen off the bus" in lost.error
    assert (lost.index, lost.uuid, lost.name) == (0, "GPU-aaaa", "NVIDIA H100 80GB HBM3")
    assert lost.memory_used_bytes is None
    assert lost.processes is None
    assert well.error is None
    assert (well.index, well.memory_used_bytes) == (1, 30 * GIB)


def test_a_gpu_lost_before_the_first_reading_has_no_name(pynvml: FakePynvml) -> None:
    pynvml.gpus.append(FakeGpu(lost=True))
    lost = open_probe().read()[1]
    assert lost.error
    assert (lost.uuid, lost.name) == (None, None)


def test_a_gpu_that_is_lost_between_two_questions_shows_no_half_reading(pynvml: FakePynvml) -> None:
    pynvml.gpus[0].fails = {"nvmlDeviceGetPowerUsage": nvml.GPU_IS_LOST}
    device = read_one()
    assert device.error
    assert device.memory_used_bytes is None


def test_a_gpu_that_needs_a_reset_says_so(pynvml: FakePynvml) -> None:
    pynvml.gpus[0].fails = {"nvmlDeviceGetMemoryInfo_v2": nvml.RESET_REQUIRED}
    assert "must be reset" in (read_one().error or "")


def test_a_gpu_that_answers_nothing_says_why(pynvml: FakePynvml) -> None:
    names = ["MemoryInfo", "MemoryInfo_v2", "UtilizationRates", "Temperature", "TemperatureV"]
    pynvml.gpus[0].fails = dict.fromkeys([f"nvmlDeviceGet{name}" for name in names], nvml.UNKNOWN)
    assert "Unknown Error" in (read_one().error or "")


def test_a_gpu_that_comes_back_is_read_again(pynvml: FakePynvml) -> None:
    probe = open_probe()
    pynvml.gpus[0].lost = True
    assert probe.read()[0].error
    pynvml.gpus[0].lost = False
    assert probe.read()[0].memory_used_bytes == 30 * GIB


def test_a_gpu_that_nvml_sees_only_when_initialised_anew_is_found_after_a_while(pynvml: FakePynvml) -> None:
    clock = Clock()
    pynvml.gpus[0].lost = True
    probe = NvmlProbe(pynvml, clock)
    assert probe.read()[0].error
    pynvml.gpus[0].lost = False
    assert probe.read()[0].error
    clock.now += RESCAN_AFTER
    assert probe.read()[0].error is None
    assert pynvml.reference_count == 1


def test_a_reloaded_driver_is_opened_again(pynvml: FakePynvml) -> None:
    probe = open_probe()
    pynvml.reload_driver()
    assert probe.read()[0].memory_used_bytes == 30 * GIB


def test_a_driver_that_goes_away_is_told_and_used_again_when_it_is_back(pynvml: FakePynvml) -> None:
    probe = open_probe()
    pynvml.reload_driver()
    pynvml.init_error = nvml.DRIVER_NOT_LOADED
    for _ in range(2):
        with pytest.raises(TelemetryError, match="not loaded"):
            probe.read()
    pynvml.init_error = nvml.SUCCESS
    assert probe.read()[0].memory_used_bytes == 30 * GIB


def test_no_driver_on_a_machine_without_a_gpu_is_nothing_to_act_on(pynvml: FakePynvml, tmp_path: Path) -> None:
    plug_in_gpu(tmp_path, vendor="0x8086", device_class="0x030000")
    pynvml.init_error = nvml.LIBRARY_NOT_FOUND
    with pytest.raises(TelemetryError) as caught:
        open_probe(tmp_path)
    assert str(caught.value) == "No NVIDIA driver is installed on this machine."
    assert caught.value.facts["absent"] is True


def test_no_driver_for_a_gpu_that_is_there_says_what_to_do(pynvml: FakePynvml, tmp_path: Path) -> None:
    plug_in_gpu(tmp_path, vendor="0x10de", device_class="0x030200")
    pynvml.init_error = nvml.LIBRARY_NOT_FOUND
    with pytest.raises(TelemetryError, match="its driver is not installed") as caught:
        open_probe(tmp_path)
    assert "--gpus all" in caught.value.next_step
    assert not caught.value.facts.get("absent")


@pytest.mark.parametrize(
    ("code", "message", "next_step"),
    [
        (nvml.LIB_RM_VERSION_MISMATCH, "different versions", "Reboot or reload the driver"),
        (nvml.DRIVER_NOT_LOADED, "not loaded", "modprobe nvidia"),
        (nvml.NO_PERMISSION, "may not read", "/dev/nvidiactl"),
        (nvml.UNKNOWN, "Unknown Error", "nvidia-smi"),
    ],
)
def test_a_broken_driver_says_what_to_do(pynvml: FakePynvml, code: int, message: str, next_step: str) -> None:
    pynvml.init_error = code
    with pytest.raises(TelemetryError) as caught:
        open_probe()
    assert message in caught.value.message
    assert next_step in caught.value.next_step


def test_a_driver_without_gpus_is_no_probe_and_is_released(pynvml: FakePynvml) -> None:
    pynvml.gpus.clear()
    with pytest.raises(TelemetryError, match="finds no GPU"):
        open_probe()
    assert pynvml.reference_count == 0


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # what makes an import fail
    with pytest.raises(TelemetryError, match="nvidia-ml-py"):
        open_probe()


def test_closing_twice_releases_the_driver_once(pynvml: FakePynvml) -> None:
    other_user_of_nvml = FakePynvml.nvmlInit
    other_user_of_nvml(pynvml)
    probe = open_probe()
    probe.close()
    probe.close()
    assert pynvml.reference_count == 1
    with pytest.raises(TelemetryError, match="closed"):
        probe.read()
