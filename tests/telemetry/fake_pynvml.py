"""A stand-in for the ``pynvml`` module: NVML's calls, errors and habits over GPUs that a test describes.

Like the real one it counts ``nvmlInit`` calls, answers ``Uninitialized`` before the first, makes handles void at the
next initialisation, and raises ``NVMLError`` objects that carry nvml.h's number in ``value``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

GIB = 1 << 30
NOT_AVAILABLE = 0xFFFF_FFFF_FFFF_FFFF

SUCCESS, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION = 0, 1, 2, 3, 4
DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, GPU_IS_LOST, LIB_RM_VERSION_MISMATCH = 9, 12, 13, 15, 18
RESET_REQUIRED, UNKNOWN = 16, 999

MESSAGES = {
    UNINITIALIZED: "Uninitialized",
    INVALID_ARGUMENT: "Invalid Argument",
    NOT_SUPPORTED: "Not Supported",
    NO_PERMISSION: "Insufficient Permissions",
    DRIVER_NOT_LOADED: "Driver Not Loaded",
    LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
    FUNCTION_NOT_FOUND: "Function Not Found",
    GPU_IS_LOST: "GPU is lost",
    RESET_REQUIRED: "GPU requires restart",
    LIB_RM_VERSION_MISMATCH: "RM has detected an NVML/RM version mismatch.",
    UNKNOWN: "Unknown Error",
}


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return MESSAGES[self.value]


@dataclass
class FakeGpu:
    """An H100 with 80 GiB, unless told otherwise. ``fails`` maps a call's name to the error that it raises."""

    uuid: str | bytes = "GPU-aaaa"
    name: str | bytes = "NVIDIA H100 80GB HBM3"
    total: int = 80 * GIB
    used: int = 30 * GIB
    reserved: int = GIB // 2
    compute: list[tuple[int, int | None]] = field(default_factory=list)
    graphics: list[tuple[int, int | None]] = field(default_factory=list)
    lost: bool = False
    fails: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Handle:
    index: int
    generation: int


class FakePynvml(ModuleType):
    """Put it into ``sys.modules['pynvml']``. Change ``gpus`` and ``init_error`` while the test goes on."""

    NVMLError = NVMLError
    nvmlMemory_v2 = 0x2000028

    def __init__(self, *gpus: FakeGpu) -> None:
        super().__init__("pynvml")
        self.gpus = list(gpus)
        self.init_error = SUCCESS
        self.reference_count = 0
        self.generation = 0
        self.seen_by_driver: list[bool] = []

    def reload_driver(self) -> None:
        """As ``rmmod`` and ``modprobe`` do: whoever had NVML open must open it again."""
        self.reference_count = 0

    def nvmlInit(self) -> None:
        if self.init_error:
            raise NVMLError(self.init_error)
        self.reference_count += 1
        self.generation += 1
        self.seen_by_driver = [not gpu.lost for gpu in self.gpus]

    def nvmlShutdown(self) -> None:
        self._need_init()
        self.reference_count -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._need_init()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:
        self._need_init()
        if self.gpus[index].lost or not self.seen_by_driver[index]:
            raise NVMLError(GPU_IS_LOST)
        return Handle(index, self.generation)

    def nvmlDeviceGetUUID(self, handle: Handle) -> str | bytes:
        return self._gpu("nvmlDeviceGetUUID", handle).uuid

    def nvmlDeviceGetName(self, handle: Handle) -> str | bytes:
        return self._gpu("nvmlDeviceGetName", handle).name

    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None) -> SimpleNamespace:
        gpu = self._gpu("nvmlDeviceGetMemoryInfo" + ("_v2" if version else ""), handle)
        free = gpu.total - gpu.used - gpu.reserved
        if version:
            assert version == self.nvmlMemory_v2
            return SimpleNamespace(total=gpu.total, used=gpu.used, free=free, reserved=gpu.reserved)
        return SimpleNamespace(total=gpu.total, used=gpu.used + gpu.reserved, free=free)

    def nvmlDeviceGetUtilizationRates(self, handle: Handle) -> SimpleNamespace:
        self._gpu("nvmlDeviceGetUtilizationRates", handle)
        return SimpleNamespace(gpu=87, memory=40)

    def nvmlDeviceGetTemperature(self, handle: Handle, sensor: int) -> int:
        assert sensor == 0
        self._gpu("nvmlDeviceGetTemperature", handle)
        return 61

    def nvmlDeviceGetTemperatureV(self, handle: Handle, sensor: int) -> int:
        self._gpu("nvmlDeviceGetTemperatureV", handle)
        return self.nvmlDeviceGetTemperature(handle, sensor)

    def nvmlDeviceGetPowerUsage(self, handle: Handle) -> int:
        self._gpu("nvmlDeviceGetPowerUsage", handle)
        return 412_345

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Handle) -> int:
        self._gpu("nvmlDeviceGetEnforcedPowerLimit", handle)
        return 700_000

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Handle) -> list[SimpleNamespace]:
        return self._processes(self._gpu("nvmlDeviceGetComputeRunningProcesses", handle).compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Handle) -> list[SimpleNamespace]:
        return self._processes(self._gpu("nvmlDeviceGetGraphicsRunningProcesses", handle).graphics)

    def _processes(self, listed: list[tuple[int, int | None]]) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in listed]

    def _need_init(self) -> None:
        if self.reference_count < 1:
            raise NVMLError(UNINITIALIZED)

    def _gpu(self, function: str, handle: Handle) -> FakeGpu:
        self._need_init()
        if handle.generation != self.generation:
            raise NVMLError(INVALID_ARGUMENT)
        gpu = self.gpus[handle.index]
        if gpu.lost:
            raise NVMLError(GPU_IS_LOST)
        if function in gpu.fails:
            raise NVMLError(gpu.fails[function])
        return gpu
