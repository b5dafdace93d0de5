"""Starts apps by fork from a process that has imported what they import: a fraction of the processor time of a start.

Run by ``forked_app.py`` with its end of a socket as the only argument. Each request there is one app to start, the
``arguments``, ``env`` and ``cwd`` as JSON, with four descriptors: standard input, output and error, and a socket. There
the app says ``pid NUMBER`` when it is about to begin, and this process ``exit CODE`` when it has ended. Once nobody can
ask any more, this process ends.

An app must not notice how it was begun. So everything that importing has read of the environment is either the same
for it or put right after the fork, and what others read of it in /proc is its own environment (the kernel shows the
memory that the first one lay in, so there is room for a larger one).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
LARGEST_REQUEST_BYTES = 1 << 20
ROOM = "FORK_SERVER_ROOM"
"""A variable of this process alone, which makes room."""
REPLACED = ("HOME", "TMPDIR")
"""Folders that differ from app to app, and whose traces in modules are rewritten."""
NOT_BEFORE = ("pynvml",)
"""Modules of which tests have their own, found by ``PYTHONPATH``."""
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
"""NumPy begins its threads when it is imported, and a fork would be without them. The app calculates nothing."""
BEFORE_GRADIO = (
    "server_manager.app_log",
    "server_manager.command_line",
    "server_manager.composition",
    "webui",
    "uvicorn",
)
AFTER_GRADIO = (
    "webui.web_app",
    # What is imported while the page is built and served.
    "anyio._backends._asyncio",
    "gradio.components.api_component",
    "server_manager.launchers.local",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "webui.tabs.chat",
    "webui.tabs.compare",
    "webui.tabs.gpus",
    "webui.tabs.load_test",
    "webui.tabs.servers",
)


@dataclass(frozen=True)
class Request:
    """One app to start."""

    arguments: list[str]
    """The script first."""
    env: dict[str, str]
    cwd: str


@dataclass(frozen=True)
class Trace:
    """A module's variable that importing computed from a folder of this process."""

    module: ModuleType
    name: str
    value: str | Path
    """With the folder of this process."""

    def rewrite(self, folders: list[tuple[str, str]]) -> None:
        text = str(self.value)
        for old, new in folders:
            text = text.replace(old, new)
        setattr(self.module, self.name, type(self.value)(text))


class Reads:
    """The variables that importing reads, while it is entered."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __enter__(self) -> Reads:
        self._getitem = type(os.environ).__getitem__

        def getitem(environ: os._Environ[str], name: str) -> str:
            self.names.add(name)
            return self._getitem(environ, name)

        type(os.environ).__getitem__ = getitem  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        type(os.environ).__getitem__ = self._getitem  # type: ignore[method-assign]


@dataclass(frozen=True)
class Imported:
    """What importing has left behind."""

    env: dict[str, str]
    """The environment before."""
    read: set[str]
    """Of which these were read,"""
    added: dict[str, str]
    """and to which these were added."""
    traces: list[Trace]


def import_all() -> Imported:
    """Imports what ``app.py`` does on its way to the page."""
    env = dict(os.environ)
    os.environ[BLAS_THREADS] = "1"
    gc.disable()
    with Reads() as reads:
        for name in BEFORE_GRADIO:
            importlib.import_module(name)
        sys.modules["webui"].import_gradio()
        for name in AFTER_GRADIO:
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
    os.environ.pop(BLAS_THREADS)
    assert not [name for name in NOT_BEFORE if name in sys.modules]
    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1, "a fork would leave threads behind"
    added = {name: value for name, value in os.environ.items() if name not in env}
    assert env.items() <= os.environ.items()
    return Imported(env, reads.names, added, list(traces()))


def traces() -> Iterator[Trace]:
    """All variables of modules that hold a folder of this process."""
    folders = [os.environ[name] for name in REPLACED]
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if isinstance(value, (str, Path)) and any(folder in str(value) for folder in folders):
                yield Trace(module, name, value)


class ForkServer:
    """Waits for requests and for the ends of apps. ``run`` returns in a child only, which then is to be the app."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._wakeup, self._alarm = socket.socketpair()
        self._reports: dict[int, int] = {}
        """The socket of each app that lives, by its pid."""

    def run(self) -> tuple[Request, int] | None:
        """The request that this child is to be, and its own end; ``None`` when nobody can ask any more."""
        for end in (self._wakeup, self._alarm):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._alarm.fileno(), warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._control, self._wakeup], [], [])
            if self._wakeup in ready:
                self._wakeup.recv(4096)
                self._reap()
            if self._control in ready:
                message, descriptors, _, _ = socket.recv_fds(self._control, LARGEST_REQUEST_BYTES, 4)
                if not message:
                    return None
                if self._fork(descriptors):
                    return Request(**json.loads(message)), descriptors[3]

    def _fork(self, descriptors: list[int]) -> bool:
        """Whether this is the child."""
        if pid := os.fork():
            self._reports[pid] = descriptors[3]
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            return False
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for end in (self._control, self._wakeup, self._alarm):
            end.close()
        for report in self._reports.values():
            os.close(report)
        for number, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return True

    def _reap(self) -> None:
        """Tells of those that have ended since."""
        for pid in list(self._reports):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                report = self._reports.pop(pid)
                os.write(report, f"exit {os.waitstatus_to_exitcode(status)}".encode())
                os.close(report)


def become(request: Request, imported: Imported) -> None:
    """Makes this process what it would be, had it been begun with this request and imported the same."""
    own, env = imported.env, request.env
    different = {name for name in own.keys() | env.keys() if own.get(name) != env.get(name)}
    unfit = (different & imported.read) - {*REPLACED}
    assert not unfit, f"importing has read {unfit}: this app needs a start of its own"
    for trace in imported.traces:
        trace.rewrite([(own[name], env[name]) for name in REPLACED])
    tempfile.tempdir = None
    os.environ.clear()
    os.environ.update({**imported.added, **env})
    show_environment(env)
    os.chdir(request.cwd)
    sys.argv = request.arguments
    paths = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:1] = [str(Path(request.arguments[0]).parent), *paths]


def show_environment(env: dict[str, str]) -> None:
    """Puts it where others look for it: what the kernel shows as ``/proc/PID/environ`` is this process's own memory."""
    stat = Path("/proc/self/stat").read_bytes()
    begin, end = map(int, stat[stat.rindex(b")") + 2 :].split()[47:49])  # fields 50 and 51 of proc(5)
    text = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items())
    assert len(text) <= end - begin, f"{len(text)} bytes of environment need more room than {end - begin}"
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(begin)
        memory.write(text.ljust(end - begin, b"\0"))


def main() -> tuple[Request, int] | None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the tests, which end their apps
    sys.path[0] = str(ROOT)
    os.environ.pop(ROOM)
    imported = import_all()
    for name in REPLACED:  # empty, or importing would have done something that an app has to do for itself
        os.rmdir(os.environ[name])
    asked = ForkServer(socket.socket(fileno=int(sys.argv[1]))).run()
    if asked is not None:
        become(asked[0], imported)
    return asked


if __name__ == "__main__" and (_asked := main()) is not None:
    # Here and not in a function, so that the interpreter ends it as it ends any program.
    os.write(_asked[1], f"pid {os.getpid()}".encode())
    os.close(_asked[1])
    runpy.run_path(sys.argv[0], run_name="__main__")
