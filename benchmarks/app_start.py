"""Seconds from ``python app.py`` to the page, and the app's memory, against a bare Gradio "hello" in the same run.

    python -m benchmarks.app_start [--runs 5]

Each run starts one and then the other as a new process and asks for ``/`` until the page's HTML comes. Ratios are
what counts: on a busy machine both take longer.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from benchmarks.machine import write_results

ROOT = Path(__file__).resolve().parent.parent
HELLO = """
import sys
import gradio as gr
gr.Interface(lambda name: "Hello, " + name + "!", "textbox", "textbox").launch(
    server_name="127.0.0.1", server_port=int(sys.argv[1]), quiet=True)
"""
_DEADLINE = 120.0
_SETTLE = 3.0
"""Seconds after the page came at which the memory is read: the sampler has run, one page has been loaded."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(argv: list[str], port: int, env: dict[str, str]) -> tuple[float, float]:
    """Seconds to the page, and resident memory in MiB some seconds later."""
    began = time.monotonic()
    child = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
                    response.read()
                break
            except OSError:
                if child.poll() is not None or time.monotonic() - began > _DEADLINE:
                    raise RuntimeError(f"{argv} did not serve a page") from None
                time.sleep(0.01)
        seconds = time.monotonic() - began
        time.sleep(_SETTLE)
        return seconds, psutil.Process(child.pid).memory_info().rss / 2**20
    finally:
        child.terminate()
        child.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    deck: list[tuple[float, float]] = []
    hello: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "HOME": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        # One round that does not count: the first of each reads its files from the disk.
        for counted in [False] + [True] * runs:
            port = free_port()
            ours = measure([sys.executable, "app.py", "--no-start", "--port", str(port)], port, env)
            port = free_port()
            theirs = measure([sys.executable, "-c", HELLO, str(port)], port, env)
            if counted:
                deck.append(ours)
                hello.append(theirs)
                print(f"app.py {ours[0]:.2f} s, {ours[1]:.0f} MiB; bare Gradio {theirs[0]:.2f} s, {theirs[1]:.0f} MiB")
    deck_s, hello_s = statistics.median(s for s, _ in deck), statistics.median(s for s, _ in hello)
    deck_mib, hello_mib = statistics.median(m for _, m in deck), statistics.median(m for _, m in hello)
    ratio = statistics.median(ours[0] / theirs[0] for ours, theirs in zip(deck, hello, strict=True))
    summary = f"""# Start of the app

Median of {runs} runs, alternating; bare Gradio is `gr.Interface(...).launch()` with one textbox.

| | to the page | resident memory |
|---|---|---|
| `python app.py --no-start` | {deck_s:.2f} s | {deck_mib:.0f} MiB |
| bare Gradio "hello" | {hello_s:.2f} s | {hello_mib:.0f} MiB |
| ratio (median of the pairs; goal at most 1.3) | **{ratio:.2f}** | goal under 250 MiB |
"""
    results = {"runs": [{"deck_s": d[0], "deck_mib": d[1], "hello_s": h[0], "hello_mib": h[1]} for d, h in
                        zip(deck, hello, strict=True)]}  # fmt: skip
    write_results("app_start", results, f"python -m benchmarks.app_start --runs {runs}", summary)


if __name__ == "__main__":
    main()
