"""Finds what servers of a dead app have left on this machine, and other people's vLLM. Changes nothing.

Every process of a server carries the server's marker in its environment. It is left over when nobody looks after it:

- it is of no server of the app that asks,
- no guardian lives whose command line has this marker (each server has one: it ends the server when its app dies, or,
  for a server that is kept, waits for the next app), and
- the app that started it is dead (its pid and start time stand in the environment too). So a second vLLM Deck with
  another state folder keeps its servers, even in the moment in which it replaces a killed guardian.

All else that looks like vLLM was started by somebody else: it is listed, and never touched.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from server_manager.launchers.leftovers import (
    SHARED_MEMORY,
    TMPDIR_PREFIX,
    mapped_shared_memory,
    shared_memory_candidates,
)
from server_manager.launchers.process_tree import APP_VARIABLE, MARKER_VARIABLE, is_guardian, read_member

_VLLM_NAME = re.compile(r"^(vllm|\S*::(EngineCor\S*|Worker\S*|APIServer\S*|DPCoord\S*))$", re.IGNORECASE)
"""``comm`` of vLLM's processes; the kernel cuts it after 15 characters."""
_TMPDIR_NAME = re.compile(rf"^{TMPDIR_PREFIX}[0-9a-f]{{10}}$")
_YOUNG_SECONDS = 60.0
"""A folder younger than this may be that of a server that is being started."""


@dataclass(frozen=True, slots=True)
class FoundProcess:
    """One living process, as far as this user may see it."""

    pid: int
    start_ticks: int
    session: int
    name: str
    argv: tuple[str, ...]
    user: str
    own_user: bool
    started_at: float
    """Unix time in seconds."""
    rss_bytes: int
    marker: str = ""
    app: str = ""
    """``pid:start ticks`` of the app that started it."""
    tmpdir: str = ""

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.start_ticks


@dataclass(frozen=True, slots=True)
class Leftover:
    """What is left of one server."""

    id: str
    """Fit for a URL; the same at each look."""
    name: str
    """Of the server."""
    marker: str
    """Empty where only a folder is left."""
    processes: tuple[FoundProcess, ...]
    started_at: float
    """Of its oldest process, or the last change of its folder; Unix time in seconds."""
    tmpdir: str = ""

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(process.pid for process in self.processes)

    @property
    def rss_bytes(self) -> int:
        return sum(process.rss_bytes for process in self.processes)


@dataclass(frozen=True, slots=True)
class ForeignVllm:
    """A vLLM that this app did not start."""

    pid: int
    """Of its leader, or of the oldest process where the leader is gone."""
    pids: tuple[int, ...]
    name: str
    """The model that it was asked to serve, else the process's own name."""
    user: str
    own_user: bool
    started_at: float
    rss_bytes: int
    of_deck: bool = False
    """Whether another vLLM Deck looks after it."""


@dataclass(frozen=True, slots=True)
class Findings:
    """One look at the machine."""

    leftovers: tuple[Leftover, ...] = ()
    foreign: tuple[ForeignVllm, ...] = ()
    shared_memory: tuple[str, ...] = ()
    """Files in /dev/shm of the kinds that vLLM makes, of this user, that no process has mapped. Nobody can tell whose
    they were (or whether a container that shares the folder uses them): named only."""
    shared_memory_bytes: int = 0


def look(own_markers: Collection[str]) -> Findings:
    """Reads /proc once: some milliseconds for each hundred processes."""
    processes = list(living_processes())
    guarded = guarded_words(processes)
    left = left_over(processes, own_markers, guarded)
    used = {process.tmpdir for process in processes} | {arg for process in processes for arg in process.argv}
    ours = {*own_markers, *(leftover.marker for leftover in left)}
    our_sessions = {process.session for process in processes if process.marker in ours}
    foreign = _foreign(processes, our_sessions, guarded)
    names, size = _unmapped_shared_memory([process.pid for process in processes])
    return Findings((*left, *_folders_without_server(used)), foreign, names, size)


def living_processes() -> Iterable[FoundProcess]:
    """Every process but zombies and this one. What another user hides (its environment) is empty."""
    own_pid = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != own_pid and (found := _read(int(name))) is not None:
            yield found


def guarded_words(processes: Iterable[FoundProcess]) -> set[str]:
    """The words in the command lines of all guardians: the markers of their servers among them."""
    return {arg for process in processes if is_guardian(process.argv) for arg in process.argv}


def left_over(
    processes: Iterable[FoundProcess], own_markers: Collection[str], guarded: Collection[str]
) -> list[Leftover]:
    """The trees that nobody looks after, by the rule above; oldest first."""
    by_marker: dict[str, list[FoundProcess]] = {}
    for process in processes:
        if process.marker and process.app and process.marker not in own_markers:
            by_marker.setdefault(process.marker, []).append(process)
    found = []
    for marker, members in by_marker.items():
        if marker in guarded or any(_app_lives(member.app) for member in members):
            continue
        members.sort(key=lambda member: (member.started_at, member.pid))
        name, _, identity = marker.rpartition(":")
        tmpdir = next((member.tmpdir for member in members if _is_own_tmpdir(member.tmpdir)), "")
        found.append(Leftover(identity, name, marker, tuple(members), members[0].started_at, tmpdir))
    return sorted(found, key=lambda leftover: leftover.started_at)


def still_left_over(leftover: Leftover, own_markers: Collection[str]) -> Leftover | None:
    """The same leftover as it is now, looked for anew; ``None`` where it is gone or somebody looks after it."""
    return next((now for now in look(own_markers).leftovers if now.id == leftover.id), None)


def _read(pid: int) -> FoundProcess | None:
    try:
        member = read_member(pid)
        if member is None or not member.alive:
            return None
        process = psutil.Process(pid)
        with process.oneshot():
            argv = tuple(process.cmdline())
            name, user, started_at = process.name(), process.username(), process.create_time()
            own_user = process.uids().effective == os.geteuid()
            rss = process.memory_info().rss
        environment = _environment(pid) if own_user else {}
    except (psutil.Error, OSError):  # gone meanwhile, or hidden from this user (hidepid)
        return None
    return FoundProcess(
        pid,
        member.start_ticks,
        member.sid,
        name,
        argv,
        user,
        own_user,
        started_at,
        rss,
        environment.get(MARKER_VARIABLE, ""),
        environment.get(APP_VARIABLE, ""),
        environment.get("TMPDIR", ""),
    )


def _environment(pid: int) -> dict[str, str]:
    """The variables that matter here; none where they cannot be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            entries = [entry.partition(b"=") for entry in environ.read().split(b"\0")]
    except OSError:
        return {}
    wanted = {MARKER_VARIABLE.encode(), APP_VARIABLE.encode(), b"TMPDIR"}
    return {key.decode(): value.decode(errors="replace") for key, _, value in entries if key in wanted}


def _app_lives(app: str) -> bool:
    pid, _, ticks = app.partition(":")
    if not (pid.isdecimal() and ticks.isdecimal()):
        return False
    member = read_member(int(pid))
    return member is not None and member.alive and member.start_ticks == int(ticks)


def _is_own_tmpdir(path: str) -> bool:
    """Whether it is a folder that a launcher of this user made."""
    if not _TMPDIR_NAME.match(os.path.basename(path)):
        return False
    try:
        return os.lstat(path).st_uid == os.geteuid() and os.path.isdir(path) and not os.path.islink(path)
    except OSError:
        return False


def _folders_without_server(used: Collection[str]) -> list[Leftover]:
    """TMPDIRs of servers that are gone: no process has them as its own, and no guardian will remove them."""
    places = {os.environ.get("TMPDIR", ""), "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR", "")}
    found = []
    for place in sorted(filter(os.path.isabs, places)):
        try:
            names = [entry.name for entry in os.scandir(place) if _TMPDIR_NAME.match(entry.name)]
        except OSError:  # not there, or not ours to read
            continue
        for name in names:
            path = os.path.join(place, name)
            if path in used or not _is_own_tmpdir(path):
                continue
            changed_at = Path(path).lstat().st_mtime
            if time.time() - changed_at > _YOUNG_SECONDS:
                found.append(Leftover(name, "", "", (), changed_at, path))
    return found


def _unmapped_shared_memory(pids: list[int]) -> tuple[tuple[str, ...], int]:
    """Names, and the bytes of memory that they take."""
    names, size = [], 0
    candidates = shared_memory_candidates()
    for name in sorted(candidates - mapped_shared_memory(pids, candidates)):
        try:
            found = os.lstat(f"{SHARED_MEMORY}/{name}")
        except OSError:  # gone meanwhile
            continue
        if time.time() - found.st_mtime > _YOUNG_SECONDS:
            names.append(name)
            size += found.st_blocks * 512
    return tuple(names), size


def _foreign(
    processes: Iterable[FoundProcess], our_sessions: Collection[int], guarded: Collection[str]
) -> tuple[ForeignVllm, ...]:
    """Other people's vLLM, one entry for each session."""
    sessions: dict[int, list[FoundProcess]] = {}
    for process in processes:
        if process.session not in our_sessions and _is_vllm(process):
            sessions.setdefault(process.session, []).append(process)
    found = []
    for members in sessions.values():
        members.sort(key=lambda member: (member.pid != member.session, member.started_at, member.pid))
        leader = members[0]
        of_deck = any(member.marker in guarded or _app_lives(member.app) for member in members if member.marker)
        found.append(
            ForeignVllm(
                leader.pid,
                tuple(sorted(member.pid for member in members)),
                next((model for member in members if (model := _served(member.argv))), leader.name),
                leader.user,
                leader.own_user,
                leader.started_at,
                sum(member.rss_bytes for member in members),
                of_deck,
            )
        )
    return tuple(sorted(found, key=lambda each: each.started_at))


def _is_vllm(process: FoundProcess) -> bool:
    if _VLLM_NAME.match(process.name) is not None:
        return True
    words = process.argv[1:]
    return "serve" in words and "bench" not in words and _runs_vllm(process.argv)


def _runs_vllm(argv: Sequence[str]) -> bool:
    return any(os.path.basename(arg) == "vllm" or arg.startswith("vllm.entrypoints.") for arg in argv[:4])


def _served(argv: Sequence[str]) -> str:
    """The model of a ``vllm serve MODEL …`` line; never more of it, since it may hold keys."""
    if not _runs_vllm(argv) or "serve" not in argv:
        return ""
    rest = argv[argv.index("serve") + 1 :]
    if rest and not rest[0].startswith("-"):
        return rest[0]
    return next((value for flag, value in pairwise(rest) if flag == "--model"), "")
