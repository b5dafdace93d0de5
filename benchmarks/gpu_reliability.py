"""What happens to a GPU's memory when servers die: bare vLLM against the product, by NVML.

    python -m benchmarks.gpu_reliability --models-dir DIR --small NAME --large NAME [--parts bare,api,stop,keep]

``bare``: `vllm serve` by hand, SIGKILL to its API server alone, and a minute of watching. ``api``: the same through the
product. ``stop``: start and stop of the large model, twice, with the receipt, the ledger while it serves, and the
estimate of the second start against what it took. ``keep``: with ``--keep-servers`` the app is killed, the next one
adopts the server and chats; then that app and the server's API server are killed. ``failures``: starts that must fail,
with what the product says of each; their logs go to ``--logs``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.app_start import ROOT, free_port
from benchmarks.gpu_walk import post
from benchmarks.machine import write_results
from benchmarks.server_stop import answers, ask, session_members, wait_for

_MIB = 2**20
_GIB = 2**30
_BACK_TOLERANCE = 64 * _MIB
HOG = """
import sys, time, torch
held = torch.empty(int(float(sys.argv[1]) * 2**30), dtype=torch.uint8, device="cuda")
print("held", flush=True)
time.sleep(600)
"""


class Gpu:
    """Device memory by NVML, read directly."""

    def __init__(self) -> None:
        from server_manager.telemetry import open_probe  # noqa: PLC0415  # not before --help

        self._probe = open_probe()
        self.idle = self.used()

    def used(self) -> int:
        return sum(device.memory_used_bytes or 0 for device in self._probe.read())

    def seconds_until_free(self, patience: float = 60.0) -> float | None:
        """Until no more is used than at the beginning; ``None`` where that does not come."""
        began = time.monotonic()
        while self.used() > self.idle + _BACK_TOLERANCE:
            if time.monotonic() - began > patience:
                return None
            time.sleep(0.02)
        return round(time.monotonic() - began, 2)


class App:
    """The product, as a process."""

    def __init__(self, models_dir: str, state_dir: str, *more: str, env: dict[str, str] | None = None) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.state_dir = state_dir
        argv = [sys.executable, "app.py", "--no-start", "--port", str(port), "--state-dir", state_dir, *more]
        self.process = subprocess.Popen([*argv, "--models-dir", models_dir], cwd=ROOT, env=env)
        wait_for(lambda: answers(self.url), "the app")

    def start(self, name: str) -> dict[str, Any]:
        """Starts a model and waits until it is ready or has failed; its status, with the estimates given meanwhile."""
        post(f"{self.url}/api/servers/{name}/start", {})
        began = time.monotonic()
        estimates: list[dict[str, Any]] = []

        def over() -> bool:
            status = self.status(name)
            if status["state"] == "starting":
                progress = status.get("progress") or {}
                kept = {key: progress.get(key) for key in ("fraction", "eta_s", "overdue")}
                estimates.append({"at_s": round(time.monotonic() - began, 1), "phase": status["phase"], **kept})
            return status["state"] in ("ready", "failed")

        wait_for(over, f"{name} to be ready or failed")
        status = self.status(name)
        status["took_s"] = round(time.monotonic() - began, 1)
        status["estimates"] = estimates[:: max(1, len(estimates) // 40)]
        return status

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = ask(f"{self.url}/api/servers/{name}")
        return found

    def stop(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(post(f"{self.url}/api/servers/{name}/stop", {}))
        return found

    def chat(self, name: str) -> str:
        body = {"conversation": f"talk{time.time_ns()}", "model": name, "text": "Hello", "sampling": {"max_tokens": 8}}
        return str(json.loads(post(f"{self.url}/api/chat", body).splitlines()[-1])["type"])

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(60)


def bare(gpu: Gpu, models: dict[str, str], small: str, utilization: str) -> dict[str, Any]:
    """Bare vLLM: its API server alone is killed."""
    port = free_port()
    argv = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", models[small], "--port", str(port)]
    argv += ["--host", "127.0.0.1", "--gpu-memory-utilization", utilization]
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: answers_health(port), "the bare server")
        before = gpu.used()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        seconds = gpu.seconds_until_free(patience=60)
        left = session_members(child.pid)
        return {
            "used_gib": gib(before),
            "seconds_until_free": seconds,
            "used_after_60_s_gib": gib(gpu.used()),
            "processes_left": len(left),
        }
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        gpu.seconds_until_free()


def api(gpu: Gpu, app: App, small: str) -> dict[str, Any]:
    """The same through the product."""
    status = app.start(small)
    before = gpu.used()
    os.kill(status["pid"], signal.SIGKILL)
    seconds = gpu.seconds_until_free()
    wait_for(lambda: app.status(small)["state"] == "failed", "the crash to be noticed")
    return {
        "used_gib": gib(before),
        "seconds_until_free": seconds,
        "used_after_gib": gib(gpu.used()),
        "exit": app.status(small)["exit"],
    }


def stop(gpu: Gpu, app: App, large: str) -> dict[str, Any]:
    """Two starts and stops of the large model."""
    rounds = []
    for _ in range(2):
        status = app.start(large)
        app.chat(large)
        time.sleep(2.5)  # the sampler's next reading
        ledger = ask(f"{app.url}/api/snapshot").get("ledger")
        before = gpu.used()
        began = time.monotonic()
        stopped = app.stop(large)
        answered = time.monotonic() - began
        rounds.append(
            {
                "start_s": status["took_s"],
                "estimates": status["estimates"],
                "memory": status.get("memory"),
                "ledger": ledger,
                "used_gib": gib(before),
                "stop_answered_s": round(answered, 2),
                "used_when_answered_gib": gib(gpu.used()),
                "receipt": stopped["exit"]["receipt"],
            }
        )
    return {"rounds": rounds}


def keep(gpu: Gpu, models_dir: str, state_dir: str, small: str) -> dict[str, Any]:
    """Servers that outlive the app, and nothing that outlives both."""
    app = App(models_dir, state_dir, "--keep-servers")
    pid = app.start(small)["pid"]
    app.end(signal.SIGKILL)
    time.sleep(5)
    kept = gib(gpu.used())
    app = App(models_dir, state_dir, "--keep-servers")
    wait_for(lambda: app.status(small)["state"] == "ready", "the adoption")
    adopted = app.status(small)["pid"] == pid
    chat = app.chat(small)
    app.end(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    return {
        "kept_gib": kept,
        "adopted": adopted,
        "chat_with_adopted": chat,
        "seconds_until_free_after_app_and_api_server_were_killed": gpu.seconds_until_free(),
    }


def failures(gpu: Gpu, models_dir: str, models: dict[str, str], large: str, logs: Path) -> dict[str, Any]:
    """Starts that must fail; the app has a state folder and a folder of models of its own for them."""
    cases: dict[str, tuple[str, float]] = {
        "gpu_tp_too_large": ("tensor-parallel-size: 2", 0),
        "gpu_kv_too_small": ("gpu-memory-utilization: 0.21\nmax-model-len: 32768", 0),
        "gpu_no_blocks": ("gpu-memory-utilization: 0.15", 0),
        "gpu_max_model_len": ("max-model-len: 100000", 0),
        "gpu_quantization": ("quantization: awq", 0),
        "gpu_oom_loading": ("kv-cache-memory-bytes: 1G", 70),
        "gpu_oom_cache": ("kv-cache-memory-bytes: 60G", 12),
        "gpu_busy": ("gpu-memory-utilization: 0.9\ndevice-ids: 0", 30),
    }
    found = {}
    with tempfile.TemporaryDirectory(prefix="f-") as state, tempfile.TemporaryDirectory(prefix="m-") as folder:
        for name, (flags, _) in cases.items():
            (Path(folder) / f"{name}.yaml").write_text(f"model: {models[large]}\n{flags}\n", encoding="utf-8")
        app = App(folder, state)
        try:
            for name, (flags, hogged) in cases.items():
                hog = take(hogged) if hogged else None
                try:
                    status = app.start(name)
                    end = status["exit"] or {"message": "it became ready", "diagnosis": None}
                    found[name] = {"flags": flags, "hogged_gib": hogged, "took_s": status["took_s"], "exit": end}
                    print(name, json.dumps(end.get("diagnosis") or end["message"])[:600], flush=True)
                    if status["state"] == "ready":
                        app.stop(name)
                finally:
                    if hog is not None:
                        hog.kill()
                        hog.wait()
                    gpu.seconds_until_free()
        finally:
            app.end()
        logs.mkdir(parents=True, exist_ok=True)
        for log in (Path(state) / "logs").glob("*.log"):
            shutil.copy(log, logs / log.name)
    return found


def take(gibs: float) -> subprocess.Popen[str]:
    """Somebody else's program that holds so much of the GPU."""
    hog = subprocess.Popen([sys.executable, "-c", HOG, str(gibs)], stdout=subprocess.PIPE, text=True)
    assert hog.stdout is not None
    hog.stdout.readline()
    return hog


def answers_health(port: int) -> bool:
    try:
        ask(f"http://127.0.0.1:{port}/v1/models")
    except OSError:
        return False
    return True


def gib(count: int) -> float:
    return round(count / _GIB, 2)


def model_paths(models_dir: str) -> dict[str, str]:
    """The folder of each model file of the directory."""
    found = {}
    for file in Path(models_dir).glob("*.yaml"):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("model:"):
                found[file.stem] = line.partition(":")[2].strip()
    return found


def run_parts(args: argparse.Namespace, parts: list[str]) -> dict[str, Any]:
    models, gpu = model_paths(args.models_dir), Gpu()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="g-") as state:

        def with_app(work: Callable[[App], dict[str, Any]]) -> dict[str, Any]:
            app = App(args.models_dir, state)
            try:
                return work(app)
            finally:
                app.end()

        run: dict[str, Callable[[], dict[str, Any]]] = {
            "bare": lambda: bare(gpu, models, args.small, args.utilization),
            "api": lambda: with_app(lambda app: api(gpu, app, args.small)),
            "stop": lambda: with_app(lambda app: stop(gpu, app, args.large)),
            "keep": lambda: keep(gpu, args.models_dir, state, args.small),
            "failures": lambda: failures(gpu, args.models_dir, models, args.large, Path(args.logs)),
        }
        for part in parts:
            results[part] = run[part]()
            print(part, json.dumps(results[part])[:3000], flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models-dir", required=True)
    parser.add_argument("--small", required=True)
    parser.add_argument("--large", required=True)
    parser.add_argument("--parts", default="bare,api,stop,keep")
    parser.add_argument("--utilization", default="0.33", help="gpu-memory-utilization of the bare server")
    parser.add_argument("--logs", default="gpu-logs")
    parser.add_argument("--name", default="gpu_reliability", help="of the files in docs/benchmarks")
    args = parser.parse_args()
    results = run_parts(args, args.parts.split(","))
    command = f"python -m benchmarks.gpu_reliability --models-dir DIR --small {args.small} --large {args.large}"
    rows = "\n".join(f"- {part}: see the JSON" for part in results)
    write_results(args.name, results, f"{command} --parts {args.parts}", f"# GPU memory when servers die\n\n{rows}")


if __name__ == "__main__":
    main()
