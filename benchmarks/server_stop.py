"""Seconds from Stop to nothing left: no process, no socket file, no shared memory, against a bare SIGTERM.

    python -m benchmarks.server_stop [--runs 3] [--model NAME]

Through the product: the app is started, the model too, and stopped by ``POST /api/servers/NAME/stop``. Bare: the same
command line is started by hand and its leader gets SIGTERM; "left" is what that leaves on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from benchmarks.app_start import ROOT, free_port
from benchmarks.machine import write_results

_DEADLINE = 600.0


def ask(url: str, method: str = "GET") -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=120) as response:
        return json.loads(response.read())


def wait_for(condition: Any, what: str) -> None:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > _DEADLINE:
            raise RuntimeError(f"waited too long for {what}")
        time.sleep(0.05)


def session_members(leader: int) -> list[int]:
    """Living processes of a session, zombies left out."""
    found = []
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if os.getsid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, PermissionError):
            continue
    return found


def product_stop(url: str, name: str) -> tuple[float, int, str]:
    """Seconds until no process is left, how many files are left, and the command that was run."""
    ask(f"{url}/api/servers/{name}/start", "POST")
    wait_for(lambda: ask(f"{url}/api/servers/{name}")["state"] in ("ready", "failed"), "the start")
    status = ask(f"{url}/api/servers/{name}")
    if status["state"] == "failed":
        raise RuntimeError(status["exit"]["message"])
    shared_before = set(os.listdir("/dev/shm"))
    began = time.monotonic()
    ask(f"{url}/api/servers/{name}/stop", "POST")
    wait_for(lambda: not session_members(status["pid"]), "the end of every process")
    seconds = time.monotonic() - began
    left = len(list(Path(os.environ.get("TMPDIR", "/tmp")).glob("deck-*")))
    return seconds, left + len(set(os.listdir("/dev/shm")) - shared_before), status["command"]


def bare_stop(command: str, vllm: list[str]) -> tuple[float, int]:
    """The same for vLLM by hand and one SIGTERM."""
    port = free_port()
    words = shlex.split(command)
    assignments, words = words[: words.index("vllm")], words[words.index("vllm") + 1 :]
    argv = [*vllm, *words]
    argv[argv.index("--port") + 1] = str(port)
    with tempfile.TemporaryDirectory(prefix="b-") as tmpdir:
        env = {**os.environ, "TMPDIR": tmpdir, "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1"}
        env |= dict(word.split("=", 1) for word in assignments)
        child = subprocess.Popen(
            argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

        def ready() -> bool:
            try:
                return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200)
            except OSError:
                if child.poll() is not None:
                    raise RuntimeError("vLLM ended during its start") from None
                return False

        wait_for(ready, "the bare start")
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        child.wait()
        wait_for(lambda: not session_members(child.pid), "the end of every process")
        return time.monotonic() - began, len(os.listdir(tmpdir))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--models-dir", default="")
    args = parser.parse_args()
    vllm = [os.environ.get("DECK_VLLM_PYTHON") or sys.executable, "-m", "vllm.entrypoints.cli.main"]
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="s-") as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        more = ["--models-dir", args.models_dir] if args.models_dir else []
        argv = [sys.executable, "app.py", "--no-start", "--port", str(port), "--state-dir", folder, *more]
        app = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: answers(url), "the app")
            for _ in range(args.runs):
                ours, ours_left, command = product_stop(url, args.model)
                bare, bare_left = bare_stop(command, vllm)
                rows.append({"deck_s": ours, "deck_left": ours_left, "bare_s": bare, "bare_left": bare_left})
                print(rows[-1], flush=True)
        finally:
            app.terminate()
            app.wait(60)
    deck, bare = (statistics.median(row[key] for row in rows) for key in ("deck_s", "bare_s"))
    summary = f"""# From Stop to nothing left

{args.model}, idle, median of {args.runs} runs, alternating. "Nothing left" is: no process of its session, none of its
files in TMPDIR or /dev/shm.

| | until every process is gone | files left |
|---|---|---|
| Stop in vLLM Deck | {deck:.2f} s | {max(row["deck_left"] for row in rows):.0f} |
| SIGTERM to `vllm serve` | {bare:.2f} s | {max(row["bare_left"] for row in rows):.0f} in TMPDIR |
"""
    write_results("server_stop", {"runs": rows}, f"python -m benchmarks.server_stop --runs {args.runs}", summary)


def answers(url: str) -> bool:
    try:
        return bool(ask(f"{url}/healthz"))
    except OSError:
        return False


if __name__ == "__main__":
    main()
