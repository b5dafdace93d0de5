"""Runs servers as processes on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from server_manager.errors import LaunchError, StateDirError, StopError
from server_manager.launchers.base import HandleRecord, LaunchRequest
from server_manager.launchers.leftovers import TMPDIR_PREFIX, SharedMemoryWatch
from server_manager.launchers.local_handle import LocalServerHandle
from server_manager.launchers.process_tree import (
    APP_VARIABLE,
    MARKER_VARIABLE,
    Member,
    boot_id,
    is_guardian,
    read_marker,
    read_member,
    send_signal,
    this_app,
)
from server_manager.log_rotation import set_aside
from server_manager.settings import Settings

TMPDIR_MAX_CHARS = 59
"""vLLM binds Unix sockets named by a UUID in TMPDIR, and their whole path may have 107 bytes."""
NOT_INHERITED = ("PYTHONDONTWRITEBYTECODE", "VLLM_PORT", MARKER_VARIABLE)
"""The first makes each of vLLM's processes start 12 s slower; the second moves vLLM's internal ports."""

GUARDIAN_EXIT_SECONDS = 5.0
PACKAGE_DIR = Path(__file__).resolve().parent.parent
# Not `-m server_manager.launchers.guardian`: that would import the whole package, and psutil with it.
GUARDIAN_CODE = "import sys; sys.path.append(sys.argv[1]); from launchers.guardian import main; main(*sys.argv[2:5])"

logger = logging.getLogger(__name__)


def create_launcher(settings: Settings) -> LocalLauncher:
    return LocalLauncher(settings)


class LocalLauncher:
    """Starts servers in sessions of their own, each with a guardian."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def launch(self, request: LaunchRequest) -> LocalServerHandle:
        """Creates the process. Raises ``LaunchError`` or ``StateDirError``; no process and no TMPDIR is left then."""
        marker = f"{request.name}:{secrets.token_hex(8)}"
        tmpdir = new_tmpdir_path(os.environ)
        env = child_environment(os.environ, request, self._settings.cache_dir, tmpdir, marker)
        executable = find_executable(request.argv, env)
        started_at = time.time()
        shared_memory = SharedMemoryWatch(str(tmpdir), before_the_server=True)
        prepare_log(request.log_path, request.argv)
        guardian = None
        child = None
        try:
            # First, so that there is no moment in which the server lives without it (see guardian.py).
            guardian = GuardianProcess(marker, str(tmpdir), str(request.log_path), when="before")
            make_tmpdir(tmpdir)
            child = start_server(request, executable, env)
        except OSError as error:
            raise LaunchError(
                f"The server could not be started: {error.strerror or error}.",
                "Check the memory and the number of processes that this user may have (ulimit -u).",
                argv=request.argv,
                errno=error.errno,
            ) from error
        finally:
            if child is None:
                shutil.rmtree(tmpdir, ignore_errors=True)
                if guardian is not None:
                    await guardian.close()
        leader = read_member(child.pid)
        assert leader is not None, "a child that nobody has waited for is at least a zombie"
        guardian.say(f"pid {leader.pid} {leader.start_ticks}")
        record = HandleRecord(
            name=request.name,
            launcher="local",
            pid=child.pid,
            start_ticks=leader.start_ticks,
            boot_id=boot_id(),
            port=request.port,
            log_path=str(request.log_path),
            tmpdir=str(tmpdir),
            api_key=request.secret_env.get("VLLM_API_KEY", ""),
            argv=request.argv,
            env=dict(request.env),
            started_at=started_at,
            marker=marker,
            will_hold=dict(request.will_hold),
        )
        return handle_of(record, child, guardian, shared_memory)

    async def adopt(self, record: HandleRecord) -> LocalServerHandle | None:
        """The handle of a server of an earlier app, ``None`` where pid and start time no longer match.

        Raises ``StopError`` where something of it outlives SIGKILL.

        Whatever else is left of its tree then (EngineCore without its API server, files) is ended and removed, since
        nobody else would: found by the marker alone, so that no stranger is touched.
        """
        if is_same_server(record):
            handle = handle_of(record)
            # Notes its shared memory, before the guardian that knows it is sent away.
            await asyncio.to_thread(handle.processes)
            if handle.guardian_pid is not None:
                dismiss_guardians(record.marker, but=handle.guardian_pid)
            return handle
        if record.marker:
            survivors = await LocalServerHandle(replace(record, pid=0, start_ticks=0)).kill()
            if survivors:
                raise StopError(
                    f"{record.name} of an earlier vLLM Deck left processes that not even SIGKILL ends: "
                    f"{', '.join(map(str, survivors))}.",
                    "They usually wait for a driver; look at `dmesg`, and reboot if they stay.",
                    pids=survivors,
                )
        return None


def handle_of(
    record: HandleRecord,
    child: subprocess.Popen[bytes] | None = None,
    guardian: GuardianProcess | None = None,
    shared_memory: SharedMemoryWatch | None = None,
) -> LocalServerHandle:
    """The handle of a living server, with the guardian that it has or a new one."""

    def new_guardian() -> GuardianProcess:
        return GuardianProcess(record.marker, record.tmpdir, record.log_path, when="after")

    return LocalServerHandle(
        record, child=child, guardian=guardian, new_guardian=new_guardian, shared_memory=shared_memory
    )


class GuardianProcess:
    """A guardian and the app's end of the pipe to it (see ``guardian.py``)."""

    def __init__(self, marker: str, tmpdir: str, log_path: str, *, when: str) -> None:
        """Starts it, ``before`` its server is started or ``after``. Raises ``OSError`` where that is not possible."""
        env = {key: value for key, value in os.environ.items() if key != MARKER_VARIABLE}
        with open(log_path, "ab") as log, polite_signals_blocked():
            self._process = subprocess.Popen(
                (sys.executable, "-S", "-E", "-c", GUARDIAN_CODE, str(PACKAGE_DIR), marker, tmpdir, when),
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                bufsize=0,
            )
        assert self._process.stdin is not None, "asked for with PIPE"
        self._pipe = self._process.stdin

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def say(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._pipe.write(f"{line}\n".encode())

    def drop(self) -> None:
        """Lets go of the pipe to one that is dead."""
        self._pipe.close()

    async def close(self) -> None:
        """Tells it to go and waits until it has: milliseconds, unless it has only just been started."""
        self.say("bye")
        self._pipe.close()
        deadline = time.monotonic() + GUARDIAN_EXIT_SECONDS
        while self.alive():
            if time.monotonic() > deadline:
                self._process.kill()
            await asyncio.sleep(0.005)


def guardians_of(marker: str) -> list[Member]:
    """The living guardians of a server, whoever started them: the marker stands in their command line."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            words = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")
        except OSError:  # gone meanwhile
            continue
        if marker in words and is_guardian(words):
            member = read_member(pid)
            if member is not None and member.alive:
                found.append(member)
    return found


def dismiss_guardians(marker: str, *, but: int) -> None:
    """Sends away the guardians that earlier apps left with a server, except for the one with the pid ``but``."""
    for guardian in guardians_of(marker):
        if guardian.pid != but:
            send_signal(guardian, signal.SIGKILL)


@contextlib.contextmanager
def polite_signals_blocked() -> Iterator[None]:
    """What is started here inherits the mask: a guardian is out of reach of SIGTERM before its first instruction."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_server(request: LaunchRequest, executable: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The leader, in a session of its own, its output in the log. Raises ``OSError``."""
    with open(request.log_path, "ab") as log:
        return subprocess.Popen(
            request.argv,
            executable=executable,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def is_same_server(record: HandleRecord) -> bool:
    """Whether the record's pid is still the process that it was, and leads a session of its own."""
    leader = read_member(record.pid)
    if leader is None or not leader.alive or record.boot_id != boot_id():
        return False
    if leader.start_ticks != record.start_ticks or leader.sid != leader.pid:
        return False
    if record.pid in (os.getpid(), os.getpgrp()):
        return False
    return read_marker(record.pid) in (record.marker, "")


def child_environment(
    inherited: Mapping[str, str], request: LaunchRequest, cache_dir: Path, tmpdir: Path, marker: str
) -> dict[str, str]:
    """The server's environment: the app's own, what makes vLLM behave, the request's, and the marker."""
    env = {key: value for key, value in inherited.items() if key not in NOT_INHERITED}
    # By default a folder in TMPDIR, which is deleted with the server: compiling again would take a minute.
    env.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / "torchinductor"))
    env |= {
        "TMPDIR": str(tmpdir),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",  # else vLLM probes for a route to the internet
        "VLLM_PROCESS_NAME_PREFIX": request.name,  # NVML's processes then name their server
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts
    }
    env |= request.env
    env |= request.secret_env
    # SPT_NOENV keeps setproctitle from writing over the environment that the marker is read from.
    return env | {"SPT_NOENV": "1", MARKER_VARIABLE: marker, APP_VARIABLE: this_app()}


def find_executable(argv: tuple[str, ...], env: Mapping[str, str]) -> str:
    """The program to run. Raises ``LaunchError`` before anything has been touched."""
    found = shutil.which(argv[0], path=env.get("PATH")) if argv else None
    if found:
        return found
    program = argv[0] if argv else ""
    exists = os.path.exists(program)
    raise LaunchError(
        f"{program} is not a program that this user may run." if exists else f"The program {program} was not found.",
        "Install vLLM, or set DECK_VLLM_PYTHON to the Python of the environment that has it.",
        argv=argv,
        errno=errno.EACCES if exists else errno.ENOENT,
    )


def prepare_log(path: Path, argv: tuple[str, ...]) -> None:
    """Keeps the log of the run before as ``NAME.log.prev`` and begins a new one with the command line.

    That first line also shows in time whether the disk takes anything. Raises ``StateDirError``.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        set_aside(path)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            log.write(f"vLLM Deck {now}: {shlex.join(argv)}\n".encode())
    except OSError as error:
        raise state_dir_error(f"The log {path} cannot be written", path, error) from error


def new_tmpdir_path(env: Mapping[str, str]) -> Path:
    """A path for a server's TMPDIR that is short enough; it does not exist yet.

    The system's folder for temporary files before ``XDG_RUNTIME_DIR``: the latter is small, often forbids to run what
    a compiler writes there, and goes at logout, when a kept server should stay.
    """
    name = TMPDIR_PREFIX + secrets.token_hex(5)
    for folder in (env.get("TMPDIR", ""), "/tmp", "/var/tmp", env.get("XDG_RUNTIME_DIR", "")):
        path = Path(folder) / name
        if path.is_absolute() and len(str(path)) <= TMPDIR_MAX_CHARS and os.access(folder, os.W_OK | os.X_OK):
            return path
    return Path("/tmp") / name


def make_tmpdir(path: Path) -> None:
    """Raises ``StateDirError``."""
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise state_dir_error(f"The folder for temporary files {path} cannot be made", path, error) from error


def state_dir_error(what: str, path: Path, error: OSError) -> StateDirError:
    """``what`` happened, the system's reason and the step that helps against it."""
    steps = {
        errno.ENOSPC: "Free some space on that disk, or choose another one with --state-dir.",
        errno.EDQUOT: "Free some of your quota, or choose another disk with --state-dir.",
        errno.EROFS: "That disk is read-only: choose another one with --state-dir.",
    }
    step = steps.get(error.errno or 0, "Give this user the right to write there, or choose another --state-dir.")
    return StateDirError(f"{what}: {error.strerror or error}.", step, path=str(path), errno=error.errno)
