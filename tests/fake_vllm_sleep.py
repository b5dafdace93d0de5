"""What a fake vLLM holds of a fake GPU (``fake_gpu``), and its sleep mode with the faults that the real one has.

FAKE_GPU_DIR                    the folder of ``fake_gpu``; without it nothing is held
FAKE_VLLM_WEIGHTS_GIB           default 1
FAKE_VLLM_OVERHEAD_GIB          CUDA context, activations, graphs: default 1
FAKE_VLLM_RESIDUE_GIB           what stays on the GPU while it sleeps: default 1.5
FAKE_VLLM_SLEEP_SECONDS         how long /sleep and /wake_up take (default 0)
FAKE_VLLM_FIRST_SLEEP_SECONDS   the first of a process (default: the same)
FAKE_VLLM_WAKE                  good (default) | error (status 500) | half (still asleep) | garbage | dies
FAKE_VLLM_WAKE_FAULT_AFTER      so many wakes go well before that (default 0)
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import fake_gpu
from fake_vllm_answers import Rejected, number, setting

FOLDER = Path(os.environ["FAKE_GPU_DIR"]) if os.environ.get("FAKE_GPU_DIR") else None
GOOD, GARBAGE = {" Paris": -0.1, " the": -2.5, " a": -3.0, " located": -3.5, " known": -4.0}, {"!": -0.7, "!!": -1.4}


class Sleep:
    """The state of one server."""

    def __init__(self, args: Any) -> None:
        self.args = args
        self.level = 0
        self.holder = os.getpid()
        """The process that holds the memory: EngineCore, once there is one."""
        self.weights_dropped = False
        self.garbage = False
        self._wakes = 0
        self._slept = False
        self._moving = asyncio.Lock()
        self._indices = fake_gpu.visible(FOLDER, int(args.tensor_parallel_size)) if FOLDER else []

    def refusal(self) -> str | None:
        """What vLLM says where less is free than it is to use; else takes the memory."""
        for index in self._indices:
            assert FOLDER is not None
            total = int(str(fake_gpu.gpus(FOLDER)[index]["total"]))
            free, wanted = fake_gpu.free(FOLDER, index), int(self.args.gpu_memory_utilization * total)
            if free < wanted:
                return (
                    f"ValueError: Free memory on device cuda:{index} ({free / 2**30:.2f}/{total / 2**30:.2f} GiB) on "
                    f"startup is less than desired GPU memory utilization ({self.args.gpu_memory_utilization}, "
                    f"{wanted / 2**30:.2f} GiB). Decrease GPU memory utilization or reduce GPU memory used by other "
                    "processes."
                )
        self._hold(self._awake_bytes())
        return None

    def gpu_lines(self, lines: list[str]) -> list[str]:
        """The lines of a start, with what a GPU's worker says in place of a CPU's."""
        if FOLDER is None:
            return lines
        weights, overhead = number("WEIGHTS_GIB", 1), number("OVERHEAD_GIB", 1)
        cache = min(self._awake_bytes().values()) / fake_gpu.GIB - weights - overhead
        said = [
            f"EngineCore|model_runner.py:425|Model loading took {weights} GiB memory and 1.0 seconds",
            f"EngineCore|gpu_worker.py:759|Available KV cache memory: {cache:.2f} GiB",
        ]
        words = ("cpu_worker", "CPU KV cache", "Checkpoint size")
        return [*(line for line in lines[:-2] if not any(word in line for word in words)), *said, *lines[-2:]]

    def _awake_bytes(self) -> dict[int, int]:
        assert FOLDER is not None or not self._indices
        if self.args.kv_cache_memory_bytes:
            fixed = number("WEIGHTS_GIB", 1) / max(1, len(self._indices)) + number("OVERHEAD_GIB", 1)
            size = int(fixed * fake_gpu.GIB) + _bytes(self.args.kv_cache_memory_bytes)
            return dict.fromkeys(self._indices, size)
        listed = fake_gpu.gpus(FOLDER) if FOLDER else []
        return {i: int(self.args.gpu_memory_utilization * int(str(listed[i]["total"]))) for i in self._indices}

    def _hold(self, sizes: dict[int, int]) -> None:
        if FOLDER:
            fake_gpu.hold(FOLDER, self.holder, sizes)

    @property
    def is_moving(self) -> bool:
        """Whether it is falling asleep or waking: the engine does nothing else meanwhile, as the real one."""
        return self._moving.locked()

    async def is_sleeping(self) -> bool:
        """In its turn, as the engine does all: behind a sleep or a wake that goes on."""
        async with self._moving:
            return self.level > 0

    async def sleep(self, level: int) -> None:
        async with self._moving:
            await self._sleep(level)

    async def _sleep(self, level: int) -> None:
        seconds = number("SLEEP_SECONDS")
        await asyncio.sleep(seconds if self._slept else number("FIRST_SLEEP_SECONDS", seconds))
        self._slept = True
        self.level = level
        self.weights_dropped = level == 2
        if self.args.enable_sleep_mode:
            self._hold(dict.fromkeys(self._indices, int(number("RESIDUE_GIB", 1.5) * fake_gpu.GIB)))

    async def wake(self, tags: list[str]) -> bool:
        """Whether the process goes on living."""
        async with self._moving:
            return await self._wake(tags)

    async def _wake(self, tags: list[str]) -> bool:
        await asyncio.sleep(number("SLEEP_SECONDS"))
        for index, size in self._awake_bytes().items():
            if FOLDER and fake_gpu.free(FOLDER, index, but=self.holder) < size:
                raise Rejected(500, "CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:119", "Internal")
        fault = setting("WAKE") if self._wakes >= number("WAKE_FAULT_AFTER") else "good"
        if fault == "dies":
            return False
        if fault == "error":
            raise Rejected(500, "CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:119", "Internal")
        self._hold(self._awake_bytes())
        if fault != "half" and (not tags or "kv_cache" in tags):
            self._wakes += 1
            self.level = 0
        self.garbage = fault == "garbage"
        return True

    def likely_tokens(self) -> dict[str, float]:
        return GARBAGE if self.garbage or self.weights_dropped else GOOD


def _bytes(text: str) -> int:
    """As vLLM reads it: 512M, 1G, or plain."""
    units = {"k": 1000, "K": 1024, "m": 10**6, "M": 2**20, "g": 10**9, "G": 2**30}
    return int(float(text[:-1]) * units[text[-1]]) if text[-1] in units else int(text)
