"""The handle of a server on this machine: a tree of processes, from its leader to the last file it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Protocol

import psutil

from server_manager.launchers.base import HandleRecord, ProcessInfo
from server_manager.launchers.guardian import kill_members
from server_manager.launchers.leftovers import SharedMemoryWatch, remove_tmpdir
from server_manager.launchers.process_tree import Member, ProcessTree, read_member, send_signal

KILL_DEADLINE_SECONDS = 10.0
"""A process that SIGKILL has not ended by then hangs in a driver."""
POLL_SECONDS = 0.02
logger = logging.getLogger(__name__)


class Child(Protocol):
    """What is needed of ``subprocess.Popen`` to reap a child."""

    def poll(self) -> int | None: ...


class GuardianLink(Protocol):
    """The app's end of the pipe to a guardian (see ``guardian.py``)."""

    @property
    def pid(self) -> int: ...

    def alive(self) -> bool: ...

    def say(self, line: str) -> None: ...

    def drop(self) -> None:
        """Lets go of the pipe to one that is dead."""

    async def close(self) -> None:
        """Tells it to go and waits until it has."""


class LocalServerHandle:
    """One server's tree. Methods may be called from any thread, coroutines from one event loop."""

    def __init__(
        self,
        record: HandleRecord,
        *,
        child: Child | None = None,
        new_guardian: Callable[[], GuardianLink] | None = None,
        guardian: GuardianLink | None = None,
        shared_memory: SharedMemoryWatch | None = None,
    ) -> None:
        """``child`` is ``None`` for an adopted server, ``new_guardian`` where there is only something to be ended."""
        self._record = record
        self._leader = (record.pid, record.start_ticks)
        self._child = child
        self._new_guardian = new_guardian
        self._guardian = guardian
        self._tree = ProcessTree(record.marker, record.pid, record.start_ticks)
        self._lock = threading.Lock()
        self._shared_memory = shared_memory or SharedMemoryWatch(record.tmpdir, before_the_server=False)
        self._ended = False
        self._released = False
        self._killing: asyncio.Task[tuple[int, ...]] | None = None
        self._watch_guardian()

    @property
    def pid(self) -> int:
        return self._record.pid

    @property
    def record(self) -> HandleRecord:
        return self._record

    @property
    def guardian_pid(self) -> int | None:
        with self._lock:
            return None if self._guardian is None else self._guardian.pid

    def poll(self) -> int | None:
        """``None`` while the leader lives, else its returncode; -1 where it is not our child."""
        if self._child is not None:
            return self._child.poll()
        return None if self._tree.leader_alive() else -1

    async def wait(self) -> int:
        """Waits for the leader's end without a thread: the kernel makes a pidfd readable then."""
        while (code := self.poll()) is None:
            try:
                descriptor = os.pidfd_open(self.pid)
            except OSError:  # ended this moment; or a kernel (or sandbox) without pidfd
                await asyncio.sleep(5 * POLL_SECONDS)
                continue
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            try:
                loop.add_reader(descriptor, ended.set)
                # The adopted leader could have been replaced before the descriptor was opened; then poll tells.
                if self.poll() is None:
                    await ended.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
            # A pidfd is ready when the last thread has ended; waitpid may need a moment more.
            if self.poll() is None:
                await asyncio.sleep(POLL_SECONDS)
        return code

    def release(self) -> None:
        """Tells the guardian that the server may outlive the app."""
        with self._lock:
            self._released = True
            if self._guardian is not None:
                self._guardian.say("keep")

    def terminate(self) -> None:
        """SIGTERM to the leader alone, as vLLM expects it."""
        leader = read_member(self.pid) if self.poll() is None else None
        if leader is not None and leader.identity == self._leader:
            send_signal(leader, signal.SIGTERM)

    def processes(self) -> tuple[ProcessInfo, ...]:
        """The living processes of the tree.

        Called once a second by the sampler, so it also learns here which names in /dev/shm belong to the tree (after a
        crash it would be too late) and starts a new guardian where somebody killed it.
        """
        infos = []
        members = self._members()
        self._learn_shared_memory(members)
        self._watch_guardian()
        for member in members:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(member.pid)
                infos.append(ProcessInfo(member.pid, process.name(), process.memory_info().rss))
        return tuple(infos)

    def cpu_seconds(self) -> float:
        """Processor time of the living members and of their children that have ended (compilers, say)."""
        total = 0.0
        for member in self._members():
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(member.pid).cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    async def kill(self) -> tuple[int, ...]:
        """Ends the whole tree and removes what it left; the pids that would not die. See ``ServerHandle.kill``."""
        if self._killing is None or self._killing.done():
            self._killing = asyncio.create_task(self._kill())
        # Shielded: whoever asked may be cancelled (a closed tab, Ctrl+C), the end is finished all the same.
        return await asyncio.shield(self._killing)

    async def _kill(self) -> tuple[int, ...]:
        if self._ended:
            return ()
        # In a thread: looks through /proc, and may have to read the memory maps of every process of this user.
        if survivors := await asyncio.to_thread(self._end_tree):
            return survivors
        with self._lock:
            guardian, self._guardian, self._new_guardian = self._guardian, None, None
        if guardian is not None:
            await guardian.close()
        return ()

    def _end_tree(self) -> tuple[int, ...]:
        """Kills until nobody is left, then removes what is left; the pids that would not die. Blocking."""
        deadline = time.monotonic() + KILL_DEADLINE_SECONDS
        members = self._members(fresh=True)
        self._learn_shared_memory(members)
        seen = {member.pid for member in members}
        empty_looks = 0
        while True:
            kill_members(members, self.pid)
            self.poll()
            # Two looks, since a process that forks and ends between two entries of one look is not seen.
            empty_looks = 0 if members else empty_looks + 1
            if empty_looks >= 2:
                break
            if time.monotonic() > deadline:
                return tuple(member.pid for member in members)
            time.sleep(POLL_SECONDS)
            members = self._members()
            seen.update(member.pid for member in members)
        self._ended = True
        self._reap(seen - {self.pid})
        self._shared_memory.remove()
        remove_tmpdir(self._record.tmpdir)
        return ()

    def _members(self, *, fresh: bool = False) -> list[Member]:
        with self._lock:
            return [] if self._ended else self._tree.members(fresh=fresh)

    def _learn_shared_memory(self, members: list[Member]) -> None:
        """Notes the names in /dev/shm that the tree has mapped; the guardian, which looks more often, does too."""
        self._shared_memory.look(lambda: [member.pid for member in members])

    def _watch_guardian(self) -> None:
        """Starts a guardian where there is none (adopted) or where it was killed."""
        with self._lock:
            if self._new_guardian is None or self._ended or (self._guardian is not None and self._guardian.alive()):
                return
            if self._guardian is not None:
                self._guardian.drop()
            try:
                self._guardian = self._new_guardian()
            except OSError as error:
                logger.warning("No guardian for %s: %s. It will outlive a crash of the app.", self._record.name, error)
                return
            self._guardian.say(f"pid {self._leader[0]} {self._leader[1]}")
            if self._released:
                self._guardian.say("keep")

    @staticmethod
    def _reap(pids: set[int]) -> None:
        """Collects the zombies that became our children: as PID 1 of a container nobody else would."""
        for pid in pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
