"""What a killed vLLM leaves behind, and its removal. Standard library only, for the guardian's sake.

Every start leaves socket files in TMPDIR, so each server has a TMPDIR of its own, which goes as a whole. SIGKILL also
leaves shared memory in /dev/shm: its names must be learnt from /proc/PID/maps while the processes live, and are noted
in TMPDIR, so that whoever tidies up knows them: the app, the guardian, or the next app when both were killed.
"""

from __future__ import annotations

import os
import stat
import time

TYPE_CHECKING = False  # of typing, which takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable

SHARED_MEMORY = "/dev/shm"
SHARED_MEMORY_PREFIXES = ("psm_", "sem.mp-", "sem.loky-", "nccl-", "torch_", "cuda.shm.", "vllm_", "VLLM_")
"""Made by Python's shared_memory and multiprocessing, NCCL, torch, CUDA and vLLM. Only these are ever removed: people
also keep model files in /dev/shm, and vLLM maps those just the same."""
TMPDIR_PREFIX = "deck-"
NOTES_NAME = "deck-shared-memory"
"""File in a server's TMPDIR with the names that have turned out to be its own, one a line."""
_JUST_NOW_SECONDS = 3.0
"""A tree that was killed as a whole is found dead and tidied up within that time."""
_MAPPED_AFTER_SECONDS = 0.1
_REMOVE_TRIES, _REMOVE_AGAIN_SECONDS = 10, 0.02


def shared_memory_candidates() -> set[str]:
    """Names in /dev/shm that could be a server's: of this user and with a known prefix."""
    names = set()
    try:
        with os.scandir(SHARED_MEMORY) as entries:
            for entry in entries:
                if entry.name.startswith(SHARED_MEMORY_PREFIXES) and stat.S_ISREG(_own_mode(entry.path)):
                    names.add(entry.name)
    except OSError:  # no /dev/shm here: then nothing was left in it
        pass
    return names


def mapped_shared_memory(pids: list[int], names: set[str]) -> set[str]:
    """Those of ``names`` that one of the processes has mapped. Reading the maps of a torch process takes some ms.

    loky's semaphores ("sem.loky-PID-…", through joblib on CUDA) are not mapped for long, but bear their maker's pid.
    """
    makers = {str(pid) for pid in pids}
    found = {name for name in names if name.startswith("sem.loky-") and name.split("-")[1] in makers}
    # By inode and not by name: glibc makes a semaphore under another name, which is what the maps go on showing.
    by_inode = {inode: name for name in names if (inode := _inode(f"{SHARED_MEMORY}/{name}"))}
    start = f" {SHARED_MEMORY}/".encode()
    for pid in pids if by_inode else []:
        try:
            with open(f"/proc/{pid}/maps", "rb") as maps:
                for line in maps:
                    if start in line and (name := by_inode.get(int(line.split(None, 5)[4]))):
                        found.add(name)
        except OSError:  # gone meanwhile, or of another user
            continue
    return found


class SharedMemoryWatch:
    """Learns which names in /dev/shm are a server's, by looking again and again while its processes live.

    A name is a stranger's if it is older than the server, or has stood there for ``SETTLED_SECONDS`` without a process
    of the server mapping it. One that is younger when the whole tree dies at once, and that nobody has mapped then,
    counts as the server's.
    """

    SETTLED_SECONDS = 0.5

    def __init__(self, tmpdir: str, *, before_the_server: bool) -> None:
        """``before_the_server``: the server is yet to be started."""
        self._tmpdir = tmpdir
        self.ours = set[str]() if before_the_server else noted_shared_memory(tmpdir)
        self._strangers = shared_memory_candidates() if before_the_server else set[str]()

    def look(self, pids: Callable[[], list[int]]) -> None:
        """Asks for the server's pids only where a name is to be examined."""
        names = shared_memory_candidates()
        self._strangers &= names
        unknown = names - self.ours - self._strangers
        if not unknown:
            return
        found = mapped_shared_memory(pids(), unknown)
        if found:
            self.ours |= found
            note_shared_memory(self._tmpdir, found)
        self._strangers |= {name for name in unknown - found if not _is_younger(name, self.SETTLED_SECONDS)}

    def remove(self) -> None:
        """Once all processes have ended."""
        self.ours |= noted_shared_memory(self._tmpdir)
        young = {name for name in shared_memory_candidates() - self._strangers if _is_younger(name, _JUST_NOW_SECONDS)}
        if young - self.ours:
            time.sleep(_MAPPED_AFTER_SECONDS)  # one that is just being made by another server is mapped by then
        remove_shared_memory(self.ours | young)


def remove_shared_memory(names: set[str]) -> None:
    """Removes the names that no living process has mapped any more."""
    left = names & shared_memory_candidates()
    if not left:
        return
    everybody = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    for name in left - mapped_shared_memory(everybody, left):
        try:
            os.unlink(f"{SHARED_MEMORY}/{name}")
        except OSError:  # somebody else was faster
            continue


def note_shared_memory(tmpdir: str, names: set[str]) -> None:
    """Notes that these names are of the server whose TMPDIR this is."""
    try:
        descriptor = os.open(f"{tmpdir}/{NOTES_NAME}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError:  # not there (yet), or no room: whoever learnt the names still knows them
        return
    try:
        # In one write, so that the lines of app and guardian do not mix.
        os.write(descriptor, "".join(f"{name}\n" for name in sorted(names)).encode())
    except OSError:  # no room
        pass
    finally:
        os.close(descriptor)


def noted_shared_memory(tmpdir: str) -> set[str]:
    """The names that ``note_shared_memory`` was told; no others than those that could be a server's."""
    try:
        descriptor = os.open(f"{tmpdir}/{NOTES_NAME}", os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return set()
    with open(descriptor, encoding="utf-8", errors="replace") as notes:
        names = set(notes.read().splitlines())
    return {name for name in names if name.startswith(SHARED_MEMORY_PREFIXES) and "/" not in name}


def remove_tmpdir(path: str) -> None:
    """Removes a server's TMPDIR with all that is in it; refuses any folder that a launcher did not make.

    Not ``shutil.rmtree``: importing shutil doubles the time that the guardian takes to start. More than once where
    need be: somebody who has just seen the server alive may still be writing a note.
    """
    if not os.path.basename(path).startswith(TMPDIR_PREFIX) or not stat.S_ISDIR(_own_mode(path)):
        return
    for _ in range(_REMOVE_TRIES):
        _empty(path)
        try:
            os.rmdir(path)
        except FileNotFoundError:  # somebody else was faster
            return
        except OSError:  # something is in it again, or would not go
            time.sleep(_REMOVE_AGAIN_SECONDS)
        else:
            return


def _empty(path: str) -> None:
    for folder, subfolders, files in os.walk(path, topdown=False):
        for name in files + subfolders:
            inside = os.path.join(folder, name)
            try:
                if os.path.isdir(inside) and not os.path.islink(inside):
                    os.rmdir(inside)
                else:
                    os.unlink(inside)
            except OSError:  # best effort: the rest can still go
                continue


def remove_leavings(tmpdir: str) -> None:
    """Removes the TMPDIR of a server of which no process lives, and the shared memory that is noted there."""
    remove_shared_memory(noted_shared_memory(tmpdir))
    remove_tmpdir(tmpdir)


def _own_mode(path: str) -> int:
    """The mode of a file (not of what a link points to) that belongs to this user, else 0."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0
    return found.st_mode if found.st_uid == os.geteuid() else 0


def _inode(path: str) -> int:
    try:
        return os.lstat(path).st_ino
    except OSError:  # removed meanwhile
        return 0


def _is_younger(name: str, seconds: float) -> bool:
    try:
        return time.time() - os.lstat(f"{SHARED_MEMORY}/{name}").st_ctime < seconds
    except OSError:  # removed meanwhile
        return True
