"""The seam between a server and the place where it runs.

A launcher is a module in this package that exports ``create_launcher(settings)``. The words are those of
``subprocess.Popen``. What a launcher starts is one *tree* of processes; it counts as ended when all of it is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """Everything that a launcher needs; what the page shows as the command is made from the same object."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """Added to the environment that the app itself has."""
    log_path: Path
    port: int
    secret_env: Mapping[str, str] = field(default_factory=dict)
    """Added too, and never shown, logged or stored outside the state folder."""
    will_hold: Mapping[str, int] = field(default_factory=dict)
    """What the memory planner expects it to hold, in bytes by device; empty: it knows nothing of that."""


@dataclass(frozen=True, slots=True)
class HandleRecord:
    """What must be on disk for another app to find the server again. Only valid while pid *and* start time match."""

    name: str
    launcher: str
    pid: int
    start_ticks: int
    """When the process was created, in the kernel's clock ticks since boot (field 22 of proc(5)'s ``stat``): unlike a
    Unix time it stays the same when somebody sets the clock."""
    boot_id: str
    """Of the boot that these ticks are counted from (``/proc/sys/kernel/random/boot_id``)."""
    port: int
    log_path: str
    tmpdir: str
    api_key: str
    argv: tuple[str, ...]
    env: dict[str, str]
    started_at: float
    """When the start was asked for, Unix time in seconds."""
    marker: str = ""
    """``name:random id``, in the environment of every process of the tree: finds those whose leader is gone."""
    likely_tokens: tuple[str, ...] = ()
    """What its model is known to say while it is awake and well (see ``Sleeper``); empty: not known."""
    will_hold: dict[str, int] = field(default_factory=dict)
    """As in the request."""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One process of a server's tree."""

    pid: int
    name: str
    rss_bytes: int


class ServerHandle(Protocol):
    """A tree of processes that a launcher started or adopted."""

    @property
    def pid(self) -> int:
        """Of the leader (vLLM's API server)."""

    @property
    def record(self) -> HandleRecord: ...

    def poll(self) -> int | None:
        """``None`` while the leader lives; else its returncode, negative for a signal.

        An adopted leader's returncode cannot be known: it is then reported as -1.
        """

    def processes(self) -> tuple[ProcessInfo, ...]:
        """The living processes of the tree, zombies left out. Blocking for some milliseconds."""

    def cpu_seconds(self) -> float:
        """Processor time of the living tree so far."""

    async def wait(self) -> int:
        """Waits for the leader's end and returns what ``poll`` returns."""

    def release(self) -> None:
        """From now on the server may outlive the app (``--keep-servers``): its record is on disk."""

    def terminate(self) -> None:
        """Asks the leader to end (SIGTERM)."""

    async def kill(self) -> tuple[int, ...]:
        """SIGKILL to the whole tree, waits until it is gone, removes what it left on disk and in shared memory.

        Safe to call at any time, also after the end: it is how every end is finished. Returns the pids that would
        not die (uninterruptible sleep), normally none.
        """


class Launcher(Protocol):
    """Starts servers, and finds again those that an earlier app left on purpose."""

    async def launch(self, request: LaunchRequest) -> ServerHandle:
        """Creates the process. Raises ``LaunchError`` or ``StateDirError``; nothing is left behind then."""

    async def adopt(self, record: HandleRecord) -> ServerHandle | None:
        """The handle of a server that still runs, or ``None`` where pid and start time no longer match.

        Raises ``StopError`` where something of one that no longer runs cannot be ended.
        """
