"""Which processes belong to a server, read from /proc. Standard library only: the guardian has to stay small.

A process is a member of a server's tree when it is in the session of the leader, or when it carries the server's marker
in its environment (also after it left the session), or when it was seen as a member before. Processes are known by pid
*and* start time, so that a pid that the kernel gave away again is never taken for ours.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # of typing, which takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable

MARKER_VARIABLE = "DECK_SERVER"
"""Environment variable ``<name>:<random id>`` that every process of a server inherits."""
APP_VARIABLE = "DECK_APP"
"""Likewise, ``<pid>:<start ticks>`` of the app that started it: shows whether somebody still looks after the server."""


class Member:
    """One process, as /proc/PID/stat shows it (see proc(5))."""

    __slots__ = ("alive", "pgid", "pid", "sid", "start_ticks")

    def __init__(self, pid: int, stat: bytes) -> None:
        # The name in brackets may hold anything, blanks and brackets too: what counts begins after the last one.
        fields = stat[stat.rindex(b")") + 2 :].split()
        self.pid = pid
        self.pgid = int(fields[2])
        self.sid = int(fields[3])
        self.start_ticks = int(fields[19])
        # A zombie does not count, except when it is only the first thread that has ended: the others still hold memory
        # (seen with processes that wait in a driver).
        self.alive = fields[0] not in (b"Z", b"X", b"x") or int(fields[17]) > 1

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.start_ticks


def read_member(pid: int) -> Member | None:
    """The process of this pid, ``None`` where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return Member(pid, stat.read())
    except (FileNotFoundError, ProcessLookupError):
        return None


def read_marker(pid: int) -> str:
    """The server's marker in the environment of a process, empty where there is none or it cannot be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            for entry in environ.read().split(b"\0"):
                if entry.startswith(MARKER_VARIABLE.encode() + b"="):
                    return entry.partition(b"=")[2].decode(errors="replace")
    except OSError:  # gone meanwhile, or of another user
        pass
    return ""


def is_guardian(argv: Iterable[str]) -> bool:
    """Whether this is the command line of a guardian, also of one that an earlier version started."""
    return any("launchers.guardian" in word for word in argv)


def boot_id() -> str:
    """Of this boot of the machine; empty where the kernel does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def this_app() -> str:
    """The value of ``APP_VARIABLE`` for what this process starts."""
    own = read_member(os.getpid())
    return f"{own.pid}:{own.start_ticks}" if own else ""


class ProcessTree:
    """Finds the members of one tree. A second look is cheap: only processes that are new are examined."""

    def __init__(self, marker: str, pid: int = 0, start_ticks: int = 0) -> None:
        self.marker = marker
        self.pid = pid
        """Of the leader; 0 where it is not known or no longer lives, then only the marker counts."""
        self.start_ticks = start_ticks
        self._members: set[tuple[int, int]] = set()
        self._strangers: set[int] = set()

    def members(self, *, fresh: bool = False) -> list[Member]:
        """The living members, zombies left out; ``fresh`` examines every process of this user again."""
        if fresh:
            self._strangers.clear()
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        # Forgotten once they are gone, so that a pid given away again is examined.
        self._strangers &= pids
        session = self._session()
        found = []
        for pid in pids - self._strangers - {os.getpid()}:
            member = read_member(pid)
            if member is None:
                continue
            if member.identity in self._members or self._belongs(member, session):
                self._members.add(member.identity)
                if member.alive:
                    found.append(member)
            else:
                self._strangers.add(pid)
        self._members &= {member.identity for member in found}
        return found

    def leader_alive(self) -> bool:
        leader = read_member(self.pid) if self.pid else None
        return leader is not None and leader.start_ticks == self.start_ticks and leader.alive

    def _session(self) -> int:
        """The session whose members are ours, or 0.

        The kernel gives no pid away that is still a session's, so orphans of a dead leader are found by it. A living
        process of that pid with another start time shows that all of ours are gone.
        """
        leader = read_member(self.pid) if self.pid else None
        return 0 if leader is not None and leader.start_ticks != self.start_ticks else self.pid

    def _belongs(self, member: Member, session: int) -> bool:
        if session != 0 and member.sid == session:
            return True
        try:
            if os.stat(f"/proc/{member.pid}").st_uid != os.geteuid():
                return False
        except FileNotFoundError:
            return False
        return self.marker != "" and read_marker(member.pid) == self.marker


def send_signal(member: Member, number: int) -> None:
    """Signals exactly this process, or nothing where it has ended meanwhile."""
    if member.pid == os.getpid():
        return
    try:
        descriptor = os.pidfd_open(member.pid)
    except OSError:  # gone; or a kernel (or sandbox) without pidfd
        descriptor = -1
    try:
        # The descriptor holds on to one process, so what is checked now is what is signalled.
        now = read_member(member.pid)
        if now is None or now.start_ticks != member.start_ticks:
            return
        if descriptor >= 0:
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(member.pid, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        if descriptor >= 0:
            os.close(descriptor)
