"""The whole app as a child process, over a fake vLLM: for tests of what a user meets from outside."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
from forked_app import ForkedApp, ForkServer

ROOT = Path(__file__).resolve().parents[1]
FAKE_VLLM = Path(__file__).resolve().parent / "fake_vllm.py"
DEADLINE_SECONDS = 60.0
LOCAL_HTTP: Mapping[str, Any] = {"trust_env": False, "verify": False}
"""For ``httpx``: no proxies, and no certificates, which it takes 40 ms to read for each client."""
_MARK = "DECK_TEST_MARK"

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, seconds: float = DEADLINE_SECONDS) -> T:
    """Polls until ``look`` returns something true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.05)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def common_env() -> dict[str, str]:
    """Of the children of all places: nothing of the caller's own settings."""
    ours = ("DECK_", "HF_", "VLLM_", "XDG_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # it would make every start of the app slower
    # No hub is asked how large its models are.
    return kept | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


@functools.cache
def fork_server() -> ForkServer:
    """The one of this process, from its first use to its end."""
    return ForkServer(common_env())


class Place:
    """Folders of one app, which several runs of it may share; knows every process that was begun from here."""

    def __init__(self, tmp_path: Path) -> None:
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.home = tmp_path / "home"
        self.state_dir = tmp_path / "state"
        self.models_dir = tmp_path / "models"
        self.weights = tmp_path / "weights"
        for folder in (self.home, self.models_dir, self.weights):
            folder.mkdir(parents=True)
        (self.weights / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
        self.vllm_python = tmp_path / "vllm-python"
        # Called as an interpreter: `vllm-python -m vllm.entrypoints.cli.main serve …`. The fake needs no packages.
        fake = f"{shlex.quote(sys.executable)} -S -E {shlex.quote(str(FAKE_VLLM))}"
        self.vllm_python.write_text(f'#!/bin/sh\nshift 2\nexec {fake} "$@"\n')
        self.vllm_python.chmod(0o755)
        # Unix sockets of vLLM need a short path.
        self.tmpdir = Path(tempfile.mkdtemp(prefix="dk-", dir="/tmp"))

    def add_model(self, name: str, flags: str = "", **fake: object) -> None:
        """A model file; keywords are ``FAKE_VLLM_*`` settings of its server."""
        (self.models_dir / f"{name}.yaml").write_text(f"model: {self.weights}\nserved-model-name: {name}\n{flags}")
        if fake:
            lines = "".join(f"FAKE_VLLM_{key.upper()}='{value}'\n" for key, value in fake.items())
            (self.models_dir / f"{name}.env").write_text(lines)

    def set_variables(self, name: str, **variables: str) -> None:
        """Further variables of a model."""
        with (self.models_dir / f"{name}.env").open("a", encoding="utf-8") as env:
            env.writelines(f"{key}='{value}'\n" for key, value in variables.items())

    @property
    def env(self) -> dict[str, str]:
        """Of every child."""
        return common_env() | {
            "HOME": str(self.home),
            "TMPDIR": str(self.tmpdir),
            "DECK_VLLM_PYTHON": str(self.vllm_python),
            _MARK: self.mark,
        }

    def arguments(self, *more: str) -> list[str]:
        return [
            sys.executable,
            str(ROOT / "app.py"),
            *("--state-dir", str(self.state_dir), "--models-dir", str(self.models_dir)),
            *more,
        ]

    def command(self, *arguments: str, stdin: str = "", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs ``app.py`` to its end."""
        return subprocess.run(
            self.arguments(*arguments), cwd=ROOT, env=self.env, input=stdin, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip

    def processes(self) -> dict[int, str]:
        """Command lines by pid of everything that was begun from here and lives (a zombie has no environment)."""
        found = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    environ = Path(f"/proc/{name}/environ").read_bytes()
                    if f"{_MARK}={self.mark}".encode() in environ.split(b"\0"):
                        found[int(name)] = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:
                    continue
        return found

    def log_of(self, model: str) -> str:
        return (self.state_dir / "logs" / f"{model}.log").read_text(errors="replace")

    def close(self) -> None:
        """Ends what is left, and fails where there was anything."""
        left = self.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        entries = [entry.name for entry in self.tmpdir.iterdir() if entry.name.startswith("deck-")]
        shutil.rmtree(self.tmpdir, ignore_errors=True)
        assert not left, f"processes left: {left}"
        assert not entries, f"folders left: {entries}"


class DeckApp:
    """One run of the app. ``http`` asks it; ``auth`` and cookies are the caller's."""

    def __init__(
        self,
        place: Place,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        start: bool = False,
        port: int | None = None,
        forked: bool = True,
    ) -> None:
        """``start`` leaves out ``--no-start``; without a ``port`` it gets a free one.

        Importing Gradio is most of a start's processor time, so the app is ``forked`` from a process that has done so.
        Where a test is about the start itself (its command line, what happens while it imports) or about the end of
        the process as a shell sees it, and with the real vLLM, it is begun as by a user: ``python app.py``.
        """
        self.place = place
        self.port = port or free_port()
        self.stderr_path = place.tmpdir / f"app-{self.port}.err"
        options = [*arguments] if start else ["--no-start", *arguments]
        with self.stderr_path.open("wb") as stderr:
            argv = place.arguments("--port", str(self.port), *options)
            everything = {**place.env, **(env or {})}
            self.process: subprocess.Popen[str] | ForkedApp
            if forked:
                self.process = fork_server().start(argv[1:], everything, ROOT, stderr.fileno())
            else:
                self.process = subprocess.Popen(
                    argv,
                    cwd=ROOT,
                    env=everything,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                )
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60, **LOCAL_HTTP)

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def wait_until_up(self, seconds: float = DEADLINE_SECONDS) -> DeckApp:
        def up() -> bool:
            assert self.process.poll() is None, f"the app ended with {self.process.returncode}:\n{self.stderr}"
            try:
                return self.http.get("/healthz").status_code == 200
            except httpx.HTTPError:
                return False

        try:
            eventually(up, f"the app at {self.url}", seconds)
        except BaseException:
            self.close()
            raise
        return self

    def get(self, path: str, status: int = 200) -> Any:
        return _checked(self.http.get(path), status)

    def post(self, path: str, body: object = None, status: int = 200) -> Any:
        return _checked(self.http.post(path, json=body), status)

    def put(self, path: str, body: object, status: int = 200) -> Any:
        return _checked(self.http.put(path, json=body), status)

    def delete(self, path: str, status: int = 200) -> Any:
        return _checked(self.http.delete(path), status)

    def server(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/api/servers/{name}")
        return found

    def snapshot_of(self, name: str) -> dict[str, Any]:
        """A server as the page sees it."""
        servers: list[dict[str, Any]] = self.get("/api/snapshot")["servers"]
        return next(server for server in servers if server["name"] == name)

    def wait_for(self, name: str, state: str = "ready") -> dict[str, Any]:
        """The server once it is in ``state``; fails at once where it has failed instead."""

        def look() -> dict[str, Any] | None:
            status = self.server(name)
            assert state == "failed" or status["state"] != "failed", f"{name} failed: {status['exit']}"
            return status if status["state"] == state else None

        return eventually(look, f"{name} is {state}")

    def start(self, name: str) -> dict[str, Any]:
        """Starts a model and waits until it is ready."""
        self.post(f"/api/servers/{name}/start", status=202)
        return self.wait_for(name)

    def chat(self, model: str, text: str = "Hello", **more: object) -> list[dict[str, Any]]:
        """All frames of one answer."""
        body = {"conversation": "conversation-1", "model": model, "text": text, **more}
        response = self.http.post("/api/chat", json=body)
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]

    def end(self, with_signal: int = signal.SIGTERM, within: float = 30) -> int:
        """Signals the app and waits for its end; its return code."""
        self.process.send_signal(with_signal)
        return self.process.wait(timeout=within)

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.end()
        assert self.process.stdout is not None
        self.process.stdout.close()


def text_of(frames: Sequence[Mapping[str, Any]]) -> str:
    return "".join(frame["content"] for frame in frames if frame["type"] == "text")


def _checked(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, f"{response.request.method} {response.url}: {response.text[:2000]}"
    return response.json() if "json" in response.headers.get("content-type", "") else response.text
