"""Walks through the main job on a machine with a GPU and notes what NVML says at each step.

    python -m benchmarks.gpu_walk --models-dir DIR FIRST SECOND

Starts FIRST, chats with it, switches to SECOND (which stops FIRST), chats with that, kills the app with SIGKILL, and
waits until the GPU's memory is what it was before. Every figure comes from the product's own REST interface, except
the memory after the kill, which is read from NVML directly.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.app_start import ROOT, free_port
from benchmarks.machine import write_results
from benchmarks.server_stop import answers, ask, wait_for

_MIB = 2**20


class Walk:
    """The app under test and the notes taken of it."""

    def __init__(self, models_dir: str, state_dir: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        port = self.url.rpartition(":")[2]
        argv = [sys.executable, "app.py", "--no-start", "--port", port, "--state-dir", state_dir]
        self.app = subprocess.Popen([*argv, "--models-dir", models_dir], cwd=ROOT)
        self.notes: list[dict[str, Any]] = []
        wait_for(lambda: answers(self.url), "the app")

    def note(self, step: str, seconds: float, **more: Any) -> None:
        """What the snapshot says now."""
        time.sleep(2.5)  # the sampler's next reading
        snapshot = ask(f"{self.url}/api/snapshot")
        shares = {
            server["name"]: server["gpu_bytes"] and round(server["gpu_bytes"] / _MIB)
            for server in snapshot["servers"]
            if server["state"] != "stopped"
        }
        devices = [
            {
                key: device[key]
                for key in (
                    "name",
                    "memory_used_bytes",
                    "utilization_gpu_percent",
                    "temperature_gpu_celsius",
                    "power_usage_milliwatts",
                    "processes",
                    "error",
                )
            }
            for device in snapshot["devices"]
        ]
        row = {"step": step, "seconds": round(seconds, 2), "gpu_mib_by_server": shares, "devices": devices, **more}
        self.notes.append(row)
        print(json.dumps(row), flush=True)

    def start(self, name: str, leaving: str | None = None) -> None:
        began = time.monotonic()
        post(f"{self.url}/api/servers/{name}/start", {"leaving": leaving})
        phases: list[str] = []

        def up() -> bool:
            status = ask(f"{self.url}/api/servers/{name}")
            if status["phase"] and status["phase"] not in phases:
                phases.append(status["phase"])
            if status["state"] == "failed":
                raise RuntimeError(status["exit"]["message"])
            return bool(status["state"] == "ready")

        wait_for(up, f"{name} to be ready")
        self.note(
            f"start {name}" + (f", leaving {leaving}" if leaving else ""), time.monotonic() - began, phases=phases
        )

    def chat(self, name: str) -> None:
        began = time.monotonic()
        body = {
            "conversation": f"walk{time.time_ns()}",
            "model": name,
            "text": "Tell me about GPUs.",
            "sampling": {"max_tokens": 256, "temperature": 1.0},
        }
        frames = [json.loads(line) for line in post(f"{self.url}/api/chat", body).splitlines()]
        last = frames[-1]
        texts = [frame for frame in frames if frame["type"] == "text"]
        self.note(f"chat with {name}", time.monotonic() - began, frames=len(texts), last=last)


def _row(note: dict[str, Any]) -> str:
    used = sum(device["memory_used_bytes"] or 0 for device in note["devices"]) // _MIB
    shares = ", ".join(f"{name} {mib}" for name, mib in note["gpu_mib_by_server"].items()) or "–"
    return f"| {note['step']} | {note['seconds']} s | {used:,} | {shares} |"


def post(url: str, body: dict[str, Any]) -> str:
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return str(response.read().decode())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models-dir", required=True)
    parser.add_argument("first")
    parser.add_argument("second")
    args = parser.parse_args()
    from server_manager.telemetry import open_probe  # noqa: PLC0415  # not before --help

    probe = open_probe()

    def used() -> int:
        return sum(device.memory_used_bytes or 0 for device in probe.read())

    before = used()
    with tempfile.TemporaryDirectory(prefix="g-") as folder:
        walk = Walk(args.models_dir, folder)
        try:
            walk.note("nothing is up", 0.0)
            walk.start(args.first)
            walk.chat(args.first)
            walk.start(args.second, leaving=args.first)
            walk.chat(args.second)
            at_kill = used()
            began = time.monotonic()
            os.kill(walk.app.pid, signal.SIGKILL)
            wait_for(lambda: used() <= before + 64 * _MIB, "the memory to come back")
            seconds = time.monotonic() - began
        finally:
            walk.app.kill()
            walk.app.wait()
        time.sleep(3)  # the guardian tidies up after the processes are gone
        left = sorted(path.name for path in Path(tempfile.gettempdir()).glob("deck-*"))
    kill = {"seconds": round(seconds, 2), "mib_before": round(at_kill / _MIB), "mib_after": round(used() / _MIB)}
    print("SIGKILL of the app:", json.dumps(kill), "left in TMPDIR:", left, flush=True)
    rows = "\n".join(_row(note) for note in walk.notes)
    after = f"{kill['mib_after']:,} (before {kill['mib_before']:,})"
    summary = f"""# The main job on a GPU

Figures of the product's own REST interface; random weights in the shapes of the models named.

| step | took | GPU memory used, MiB | of it by server, MiB |
|---|---|---|---|
{rows}
| SIGKILL of the app | {kill["seconds"]} s until the memory is back | {after} | – |
"""
    results = {"notes": walk.notes, "sigkill": kill, "left": left}
    write_results(
        "gpu_walk", results, f"python -m benchmarks.gpu_walk --models-dir DIR {args.first} {args.second}", summary
    )


if __name__ == "__main__":
    main()
