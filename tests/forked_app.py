"""Apps begun by a fork server (``fork_server.py``), which look to tests as ``subprocess.Popen`` does."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from fork_server import REPLACED, ROOM

FORK_SERVER = Path(__file__).resolve().parent / "fork_server.py"
ROOM_BYTES = 32 * 1024
"""How much larger an app's environment may be than that of the fork server."""


class ForkedApp:
    """One app that writes text to a pipe. What it has of ``subprocess.Popen`` behaves like that."""

    def __init__(self, arguments: Sequence[str], report: socket.socket, stdout: int) -> None:
        """Waits until it has begun. Raises ``RuntimeError`` where it has not; why stands in its standard error."""
        self.args = list(arguments)
        self.returncode: int | None = None
        self.stdout = os.fdopen(stdout, encoding="utf-8")
        self._report = report
        word, _, number = self._report.recv(64).partition(b" ")
        if word != b"pid":
            self._report.close()
            self.stdout.close()
            raise RuntimeError("The fork server has begun no app.")
        self.pid = int(number)

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or the negative number of a signal. Raises ``subprocess.TimeoutExpired``."""
        if self.returncode is None:
            self._report.settimeout(timeout)
            try:
                word, _, number = self._report.recv(64).partition(b" ")
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            if word != b"exit":
                raise RuntimeError(f"The fork server has ended: nobody knows how the app {self.pid} did.")
            self.returncode = int(number)
            self._report.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and that is not told yet
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that apps are forked from. It ends with this one, however that ends."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """``env`` is what all apps have in common. Does not wait until it can fork: that takes as long as a start."""
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # pytest says there which test it is at: importing must not read what differs from app to app.
        env = {name: value for name, value in env.items() if name != "PYTEST_CURRENT_TEST"}
        folders = {name: tempfile.mkdtemp(prefix="dk-fork-") for name in REPLACED}  # which it removes
        with control:
            self._process = subprocess.Popen(
                [sys.executable, str(FORK_SERVER), str(control.fileno())],
                env={**env, **folders, ROOM: "x" * ROOM_BYTES},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[control.fileno()],
            )
        atexit.register(self.close)

    def start(self, arguments: Sequence[str], env: Mapping[str, str], cwd: Path, stderr: int) -> ForkedApp:
        """Starts the script that ``arguments`` begin with. It has no standard input."""
        request = json.dumps({"arguments": list(arguments), "env": dict(env), "cwd": str(cwd)})
        output, stdout = os.pipe()
        report, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stdin = os.open(os.devnull, os.O_RDONLY)
        try:
            socket.send_fds(self._control, [request.encode()], [stdin, stdout, stderr, told.fileno()])
        finally:
            os.close(stdin)
            os.close(stdout)
            told.close()
        return ForkedApp(arguments, report, output)

    def close(self) -> None:
        self._control.close()
        self._process.wait()
