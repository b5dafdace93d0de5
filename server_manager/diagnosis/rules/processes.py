"""Processes that ended: interrupted, killed, crashed without an exception."""

from __future__ import annotations

import re
from collections.abc import Mapping

from server_manager.diagnosis.fixes import eager, setting
from server_manager.diagnosis.rule import Clues, rule

_KERNEL = "dmesg | grep -i -E 'killed process|out of memory'"
_EXIT_CODE = re.compile(r"'(?P<process>[\w.]+)': (?P<code>-?\d+)|exit code: (?P<exit>-?\d+|None)")
_SIGNAL_NAMES = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 11: "SIGSEGV"}


def _signal(clues: Clues) -> Mapping[str, object]:
    code = clues.number("code")
    return {"signal": _SIGNAL_NAMES.get(int(-code), f"signal {int(-code)}")} if code else {}


RULES = (
    rule(
        "interrupted",
        r"^KeyboardInterrupt(?:: .*)?$",
        "It was stopped while it was loading; vLLM itself did not fail.",
        "Start it again when you want it.",
        weak=True,
    ),
)

STRAY_RULES = (
    rule(
        "vllm_missing",
        r"(?P<command>vllm): (?:command )?not found|No module named '?vllm'?(?:$|[^.\w])|"
        r"exec: \"?vllm\"?: executable file not found",
        "vLLM is not installed in the Python that was used.",
        "Install it there, or set DECK_VLLM_PYTHON to the Python that has it.",
    ),
    rule(
        "host_out_of_memory",
        r"std::bad_alloc|DefaultCPUAllocator|Cannot allocate memory|OOMKilled|oom-kill|Out of memory: Killed process",
        "The machine ran out of main memory (RAM).",
        "Close other programs, or load less: a smaller model, less --cpu-offload-gb; in a container raise its memory "
        "limit.",
    ),
    rule(
        "shared_memory_full",
        r"Bus error|SIGBUS",
        "The shared memory /dev/shm is full or too small (bus error).",
        "In a container give it more: --ipc=host or --shm-size=8g. Otherwise remove leftovers from /dev/shm.",
    ),
    rule(
        "cpu_instructions",
        r"[Ii]llegal instruction(?! was encountered)|SIGILL",
        "The processor lacks instructions that this vLLM build uses.",
        "Install a vLLM CPU build for this processor (vLLM's own needs AVX-512).",
    ),
    rule(
        "gpu_lost",
        r"GPU is lost|has fallen off the bus|\bXid\b|uncorrectable ECC|unspecified launch failure",
        "The GPU reported a fault of its own, or its driver has lost it.",
        "Look at `dmesg` for a line with Xid and at `nvidia-smi`; resetting the GPU or the machine usually brings it "
        "back. If it comes again, the card or its power is at fault.",
    ),
    rule(
        "illegal_memory_access",
        r"(?:CUDA error|what\(\)|terminate called)[^\n]*(?:illegal memory access|misaligned address|"
        r"device-side assert)|"
        r"an illegal memory access was encountered",
        "A GPU kernel read or wrote where it must not: a fault in vLLM or a library, or flags that do not go together.",
        "Start it without CUDA graphs (--enforce-eager) to see whether it goes away; a newer vLLM may have it mended.",
    ),
    rule(
        "custom_all_reduce",
        r"Failed: (?:Cuda|NCCL) error [^\n]*(?:custom_all_reduce|all_reduce)[^\n]*",
        "The GPUs could not share memory for the fast all-reduce.",
        "Start it with --disable-custom-all-reduce.",
        setting("disable-custom-all-reduce", True),
    ),
    rule(
        "cuda_error",
        r"Failed: Cuda error|CUDA error: ",
        "The GPU reported an error to vLLM.",
        "Start it without CUDA graphs (--enforce-eager) to see whether it goes away; look at `dmesg` for a line with "
        "Xid; a newer driver or vLLM may have it mended.",
        eager,
    ),
    rule(
        "native_crash",
        r"[Ss]egmentation fault|Segfault encountered|Fatal Python error|terminate called after|^Aborted|core dumped",
        "vLLM crashed in native code, not in Python.",
        "Libraries that do not fit each other are the usual reason: install vLLM anew into an empty environment. "
        "--enforce-eager shows whether a compiled kernel is at fault.",
    ),
    rule(
        "engine_killed_serving",
        r"(?:Worker proc|RayWorkerProc|Engine core proc|Process) ?(?P<process>[\w.-]*)[^\n]*died unexpectedly|"
        r"engine core exited unexpectedly|EngineDeadError|Got fatal signal from worker processes|"
        r"EngineCore encountered (?:a fatal error|an issue)",
        "A process of vLLM was killed from outside while it served; it left no message of its own.",
        f"Usually the kernel did it because the machine ran out of memory: look with `{_KERNEL}`.",
        when=lambda clues: clues.served,
    ),
    rule(
        "engine_crashed_loading",
        r"Failed core proc\(s\): \{[^}]*: (?P<code>-(?:4|6|7|8|11))\b|"
        r"died unexpectedly \(exit code: (?P<exit>-(?:4|6|7|8|11))\)",
        "vLLM's engine crashed in native code while it was loading ({signal}).",
        "Libraries that do not fit each other are the usual reason: install vLLM anew into an empty "
        "environment. SIGBUS "
        "means that /dev/shm is too small, SIGILL that the processor is too old for this build.",
        more=_signal,
        defaults={"signal": "a signal"},
    ),
    rule(
        "worker_killed",
        r"WorkerProc initialization failed|Failed core proc\(s\): \{[^}]*: -(?:9|15)\b|died unexpectedly|"
        r"Engine core initialization failed|^Killed$",
        "A process of vLLM was killed from outside while it was loading; it left no message of its own.",
        "Usually the kernel did it because the machine ran out of memory: look with "
        f"`{_KERNEL}`. Load less, or close other programs; in a container raise its memory limit.",
        when=lambda clues: not clues.served,
    ),
)
