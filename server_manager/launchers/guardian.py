"""Ends a server when the app dies, by whatever means: one tiny process per server, outside the app's session.

It holds the read end of a pipe to the app. The kernel closes the other end when the app ends, ``kill -9`` included;
then the guardian kills the server's whole tree, removes what it left in TMPDIR and /dev/shm, and ends. When the app
has ended the server itself it says ``bye``, and the guardian removes what it knows of in /dev/shm.

Why in this order. The guardian is started *before* the server and knows the server's marker from its command line. So
there is no moment in which a server lives without a guardian: if the app dies before it could tell the server's pid,
the guardian looks for the marker in /proc for some seconds. (A child that has been forked but not yet become vLLM still
holds a copy of the pipe's write end; so the end of file comes only when its environment, with the marker, is about to
be visible.)

A server that may outlive the app (``--keep-servers``) keeps its guardian: once the app has said ``keep``, the end of
the pipe no longer ends the server, and the guardian watches its leader instead. A killed API server would otherwise
leave EngineCore with the GPU's memory for good. The next app starts a guardian of its own and sends this one away.

Why not ``PR_SET_PDEATHSIG``: it fires when the *thread* that started the server ends, and a signal to vLLM's leader
alone is swallowed while it loads, or leaves EngineCore alive with the GPU's memory.

Lines on the pipe: ``pid PID START_TICKS``, ``keep``, ``bye``.

Run with ``python -S -E`` and nothing but the standard library: about 9 MiB and 20 ms.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from .leftovers import SharedMemoryWatch, remove_tmpdir
from .process_tree import Member, ProcessTree, send_signal

SEARCH_SECONDS = 5.0
"""How long the marker is looked for when the app died before it told the pid."""
GIVE_UP_SECONDS = 60.0
"""A process that outlives SIGKILL for so long hangs in a driver; nothing in user space can end it."""
POLL_SECONDS = 0.05
LOOK_SECONDS = 0.05
"""Between two looks at /dev/shm, which take about 30 microseconds where it has nothing new. What is made there in so
short a time before guardian, app and server are killed together nobody can know of."""


def kill_members(members: list[Member], leader_pid: int) -> None:
    """SIGKILL to the leader's group and to every member outside of it; never to the caller's own group."""
    own_group = os.getpgrp()
    group = leader_pid if leader_pid != own_group else 0
    if group > 1 and any(member.pgid == group for member in members):
        # In one go, so that none of them gets to see another die.
        try:  # noqa: SIM105 - contextlib would add a tenth to the time that the guardian takes to start
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    for member in members:
        if member.pgid != group and member.pgid != own_group:
            send_signal(member, signal.SIGKILL)


class Guardian:
    """What it knows about its server."""

    def __init__(self, marker: str, tmpdir: str, *, before_the_server: bool) -> None:
        self.tree = ProcessTree(marker)
        self.tmpdir = tmpdir
        self.shared_memory = SharedMemoryWatch(tmpdir, before_the_server=before_the_server)
        self.keep = False
        """Whether the server may outlive the app."""

    def listen(self, descriptor: int) -> bool:
        """Follows the app until the pipe ends; ``True`` when the app said that all is done."""
        pending = b""
        pipe = select.poll()
        pipe.register(descriptor, select.POLLIN | select.POLLHUP)
        while True:
            if not pipe.poll(1000 * LOOK_SECONDS):
                self.look()
                continue
            if not (data := os.read(descriptor, 65536)):
                return False
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                words = os.fsdecode(line).split(" ")
                if words[0] == "bye":
                    return True
                if words[0] == "pid":
                    self.tree.pid, self.tree.start_ticks = int(words[1]), int(words[2])
                elif words[0] == "keep":
                    self.keep = True

    def look(self) -> None:
        """Learns the names in /dev/shm while the processes live: afterwards it is too late."""
        self.shared_memory.look(lambda: [member.pid for member in self.tree.members()])

    def watch_leader(self) -> None:
        """Returns when the leader has ended."""
        while self.tree.leader_alive():
            self.look()
            time.sleep(LOOK_SECONDS)

    def end_server(self) -> int:
        """Kills until two looks in a row find nobody. Returns how many processes were killed."""
        began = time.monotonic()
        killed: set[tuple[int, int]] = set()
        empty_looks = 0
        while time.monotonic() - began < GIVE_UP_SECONDS:
            members = self.tree.members(fresh=True)
            empty_looks = 0 if members else empty_looks + 1
            searching = not self.tree.pid and not killed and time.monotonic() - began < SEARCH_SECONDS
            if empty_looks >= 2 and not searching:
                break
            self.look()
            kill_members(members, self.tree.pid)
            killed.update(member.identity for member in members)
            time.sleep(POLL_SECONDS)
        self.shared_memory.remove()
        remove_tmpdir(self.tmpdir)
        return len(killed)


def main(marker: str, tmpdir: str, when: str) -> None:
    """Entry point; ``when`` is ``before`` or ``after`` the server's start.

    Standard input is the pipe, standard error the server's log.
    """
    # Whoever ends the app politely (Ctrl+C, systemd) may mean us too; we go when the app has gone. So it starts us with
    # SIGTERM, SIGINT and SIGHUP blocked, and we leave them so.
    os.chdir("/")
    guardian = Guardian(marker, tmpdir, before_the_server=when == "before")
    if guardian.listen(0):
        guardian.shared_memory.remove()
        return
    why = "vLLM Deck ended without stopping this server"
    if guardian.keep:
        guardian.watch_leader()
        why = "This server ended while no vLLM Deck was up"
    killed = guardian.end_server()
    try:
        print(f"{why}: its {killed} processes were killed.", file=sys.stderr)
    except OSError:  # the disk is full; the processes are gone, that is what counts
        return
