"""NVIDIA GPUs through NVML (the library behind ``nvidia-smi``); the only importer of ``pynvml``.

One pass over a device costs well under a millisecond; no child process is started.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import psutil

from server_manager.errors import TelemetryError
from server_manager.telemetry.base import DeviceProcess, DeviceSnapshot

PRIORITY = 100
RESCAN_AFTER = 30.0
"""Seconds between two looks for a lost GPU: NVML lists the devices when it is initialised, and then no more."""
NOT_AVAILABLE = 0xFFFF_FFFF_FFFF_FFFF
"""``NVML_VALUE_NOT_AVAILABLE`` as an unsigned long long: "N/A"."""


class _Code(IntEnum):
    """``nvmlReturn_t`` of nvml.h, as far as it is told apart here. Older bindings lack some of the names."""

    UNINITIALIZED = 1
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    LIB_RM_VERSION_MISMATCH = 18
    GPU_NOT_FOUND = 28


DRIVER_GONE: frozenset[int] = frozenset(
    {_Code.UNINITIALIZED, _Code.DRIVER_NOT_LOADED, _Code.LIBRARY_NOT_FOUND, _Code.LIB_RM_VERSION_MISMATCH}
)
FIGURE_UNKNOWN: frozenset[int] = frozenset(
    {_Code.NOT_SUPPORTED, _Code.NO_PERMISSION, _Code.NOT_FOUND, _Code.FUNCTION_NOT_FOUND}
)

LOST = "This GPU has fallen off the bus. Reboot the machine; the kernel log (`dmesg`) names the cause as an Xid."
DEVICE_GONE: Mapping[int, str] = {
    _Code.GPU_IS_LOST: LOST,
    _Code.GPU_NOT_FOUND: LOST,
    _Code.RESET_REQUIRED: "This GPU must be reset before it can be used. Run `sudo nvidia-smi --gpu-reset`, or reboot.",
}

DRIVER_ERRORS: Mapping[int, tuple[str, str]] = {
    _Code.DRIVER_NOT_LOADED: (
        "The NVIDIA driver is installed but not loaded.",
        "Load it with `sudo modprobe nvidia`, or reboot.",
    ),
    _Code.LIB_RM_VERSION_MISMATCH: (
        "The NVIDIA driver was updated: its library and the loaded kernel module have different versions.",
        "Reboot or reload the driver, then start this app again.",
    ),
    _Code.NO_PERMISSION: (
        "This user may not read the NVIDIA driver.",
        "Give the user access to /dev/nvidiactl and /dev/nvidia0 and so on.",
    ),
    _Code.GPU_IS_LOST: ("A GPU has fallen off the bus and the NVIDIA driver answers no more.", "Reboot the machine."),
}


class _DriverGone(TelemetryError):
    """NVML must be initialised again before anything can be read."""


class _DeviceGone(Exception):
    """Nothing can be read from one device; the text is for a person."""


def open_probe(pci_devices: Path = Path("/sys/bus/pci/devices")) -> NvmlProbe:
    """Loads NVML and returns a probe that has seen at least one GPU.

    Raises ``TelemetryError``, in words for a person, where the package, the driver or the GPU is missing.
    """
    try:
        import pynvml  # noqa: PLC0415  # start-up time: a machine without a GPU never needs it
    except ImportError as error:
        raise TelemetryError(
            "GPUs cannot be read: the Python package nvidia-ml-py is missing.", "Run `pip install nvidia-ml-py`."
        ) from error
    try:
        return NvmlProbe(pynvml)
    except TelemetryError as error:
        if error.facts.get("nvml_code") != _Code.LIBRARY_NOT_FOUND:
            raise
        if _has_nvidia_gpu(pci_devices):
            raise TelemetryError(
                "This machine has an NVIDIA GPU, but its driver is not installed.",
                "Install the NVIDIA driver; a container must be started with `--gpus all`.",
            ) from error
        raise TelemetryError("No NVIDIA driver is installed on this machine.", absent=True) from error


class NvmlProbe:
    """Reads every NVIDIA GPU. One call at a time; the thread may change from call to call.

    ``nvml`` is the ``pynvml`` module, ``clock`` gives seconds and serves the look for lost GPUs. Raises
    ``TelemetryError`` where NVML cannot be initialised or finds no GPU.
    """

    def __init__(self, nvml: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml = nvml
        self._clock = clock
        self._closed = False
        self._identity: dict[int, tuple[str | None, str | None]] = {}  # uuid and name by index, for a lost GPU
        self._some_lost = False
        self._initialise()
        try:
            self._device_count()
        except TelemetryError:
            self.close()
            raise

    def read(self) -> tuple[DeviceSnapshot, ...]:
        """Reads every device once; a lost one carries its ``error``.

        Initialises NVML anew where the driver was reloaded, and every ``RESCAN_AFTER`` seconds while a GPU is lost.
        """
        if self._closed:
            raise TelemetryError("This GPU probe is closed.")
        if self._some_lost and self._clock() - self._initialised_at >= RESCAN_AFTER:
            self._initialise_again()
        try:
            devices = self._read_devices()
        except _DriverGone:
            self._initialise_again()
            devices = self._read_devices()
        self._some_lost = any(device.error for device in devices)
        return devices

    def close(self) -> None:
        """Releases NVML. May be called twice."""
        if not self._closed:
            self._closed = True
            self._shutdown()

    def _initialise(self) -> None:
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise _driver_error(error) from error
        self._initialised_at = self._clock()

    def _initialise_again(self) -> None:
        self._shutdown()
        self._initialise()

    def _shutdown(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError):  # a driver that is gone cannot be released
            self._nvml.nvmlShutdown()

    def _device_count(self) -> int:
        try:
            count = int(self._nvml.nvmlDeviceGetCount())
        except self._nvml.NVMLError as error:
            raise _driver_error(error) from error
        if count == 0:
            raise TelemetryError(
                "The NVIDIA driver is loaded but finds no GPU.",
                "`nvidia-smi` says more; a container must be started with `--gpus all`.",
            )
        return count

    def _read_devices(self) -> tuple[DeviceSnapshot, ...]:
        return tuple(self._read_device(index) for index in range(self._device_count()))

    def _read_device(self, index: int) -> DeviceSnapshot:
        try:
            query = _DeviceQuery(self._nvml, index)
            uuid, name = query.text("nvmlDeviceGetUUID"), query.text("nvmlDeviceGetName")
            self._identity[index] = uuid, name
            return query.snapshot(index, uuid, name)
        except _DeviceGone as gone:
            uuid, name = self._identity.get(index, (None, None))
            return DeviceSnapshot(index, uuid, name, error=str(gone))


class _DeviceQuery:
    """Every question to one device goes through ``__call__``, which alone decides what an NVML error means."""

    def __init__(self, nvml: Any, index: int) -> None:
        self._nvml = nvml
        self._odd: str | None = None  # an error that explains itself no further ("Unknown Error")
        # Asked for on each pass: a handle from before a loss or a driver reload is void.
        self._handle: Any = None
        self._handle = self._ask("nvmlDeviceGetHandleByIndex", index)
        if self._handle is None:
            raise _DeviceGone(f"The NVIDIA driver gives no access to this GPU ({self._odd or 'no permission'}).")

    def __call__(self, function: str, *arguments: object, **options: object) -> Any:
        """The answer for this device; ``None`` where driver, device or binding cannot give it."""
        return self._ask(function, self._handle, *arguments, **options)

    def _ask(self, function: str, *arguments: object, **options: object) -> Any:
        if not hasattr(self._nvml, function):  # an older binding
            return None
        try:
            return getattr(self._nvml, function)(*arguments, **options)
        except self._nvml.NVMLError as error:
            code = _code(error)
            if code in DEVICE_GONE:
                raise _DeviceGone(DEVICE_GONE[code]) from error
            if code in DRIVER_GONE:
                raise _driver_error(error) from error
            if code not in FIGURE_UNKNOWN:
                self._odd = str(error)
            return None

    def text(self, function: str) -> str | None:
        """Old bindings answer in bytes."""
        answer = self(function)
        if isinstance(answer, bytes):
            return answer.decode(errors="replace")
        return None if answer is None else str(answer)

    def snapshot(self, index: int, uuid: str | None, name: str | None) -> DeviceSnapshot:
        memory = self._memory()
        utilization = self("nvmlDeviceGetUtilizationRates")
        temperature = self._temperature()
        device = DeviceSnapshot(
            index=index,
            uuid=uuid,
            name=name,
            memory_total_bytes=_bytes(memory, "total"),
            memory_used_bytes=_bytes(memory, "used"),
            memory_free_bytes=_bytes(memory, "free"),
            memory_reserved_bytes=_bytes(memory, "reserved"),
            utilization_gpu_percent=None if utilization is None else int(utilization.gpu),
            temperature_gpu_celsius=temperature,
            power_usage_milliwatts=self("nvmlDeviceGetPowerUsage"),
            power_limit_milliwatts=self("nvmlDeviceGetEnforcedPowerLimit"),
            processes=self._processes(),
        )
        if self._odd and memory is None and utilization is None and temperature is None:
            raise _DeviceGone(f"The NVIDIA driver gives no figures for this GPU ({self._odd}). `nvidia-smi` says more.")
        return device

    def _memory(self) -> Any:
        """Version 2 keeps what driver and firmware reserve apart from what is used (driver 510 and later)."""
        version = getattr(self._nvml, "nvmlMemory_v2", None)
        memory = None if version is None else self("nvmlDeviceGetMemoryInfo", version=version)
        return self("nvmlDeviceGetMemoryInfo") if memory is None else memory

    def _temperature(self) -> int | None:
        """The second call serves drivers without the first; it is announced to go with CUDA 14."""
        for function in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"):
            answer = self(function, 0)  # NVML_TEMPERATURE_GPU
            if answer is not None:
                return int(answer)
        return None

    def _processes(self) -> tuple[DeviceProcess, ...] | None:
        """Compute and graphics processes; one that is both is listed once, with the larger of its two figures."""
        lists = [self("nvmlDeviceGetComputeRunningProcesses"), self("nvmlDeviceGetGraphicsRunningProcesses")]
        if all(each is None for each in lists):
            return None
        used: dict[int, int | None] = {}
        for process in (process for each in lists for process in each or ()):
            pid, before, now = int(process.pid), used.get(int(process.pid)), _bytes(process, "usedGpuMemory")
            used[pid] = before if now is None else max(before or 0, now)
        return tuple(_process(pid, memory) for pid, memory in sorted(used.items()))


def _code(error: Any) -> int:
    return int(error.value)


def _bytes(source: Any, field: str) -> int | None:
    value = getattr(source, field, None)
    return None if value is None or value == NOT_AVAILABLE else int(value)


def _process(pid: int, used_bytes: int | None) -> DeviceProcess:
    """Without name, user and age where the pid is another namespace's or the process has ended."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return DeviceProcess(pid, used_bytes, str(process.name()), str(process.username()), process.create_time())
    except (psutil.Error, OSError, ValueError, OverflowError):
        return DeviceProcess(pid, used_bytes, None)


def _driver_error(error: Any) -> TelemetryError:
    """NVML as a whole does not answer: why, and what to do."""
    code = _code(error)
    kind = _DriverGone if code in DRIVER_GONE else TelemetryError
    default = (f"The NVIDIA driver cannot be read: {error}.", "`nvidia-smi` says more.")
    return kind(*DRIVER_ERRORS.get(code, default), nvml_code=code)


def _has_nvidia_gpu(pci_devices: Path) -> bool:
    """Whether a display or 3D controller (PCI class 03) of NVIDIA (vendor 10de) is plugged in, driver or not."""
    for device in pci_devices.glob("*"):
        with contextlib.suppress(OSError):
            if (device / "vendor").read_text().strip() == "0x10de" and (device / "class").read_text().startswith(
                "0x03"
            ):
                return True
    return False
