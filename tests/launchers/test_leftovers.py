"""What SIGKILL leaves in /dev/shm is found by the process that made it, and only that."""

from __future__ import annotations

import os
import subprocess
import sys

from server_manager.launchers.leftovers import (
    SHARED_MEMORY,
    mapped_shared_memory,
    remove_shared_memory,
    shared_memory_candidates,
)

WAIT = "; print(1, flush=True); time.sleep(60)"
MAKE_SEMAPHORE = "import multiprocessing as m, time; lock = m.get_context('spawn').Lock()" + WAIT
MAKE_LOKY = f"import os, time; open(f'{SHARED_MEMORY}/sem.loky-{{os.getpid()}}-test', 'w')" + WAIT


def killed_child(code: str) -> tuple[set[str], set[str]]:
    """What a child made, and what was found to be its own while it lived. It is killed then."""
    before = shared_memory_candidates()
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    child.stdout.readline()
    made = shared_memory_candidates() - before
    found = mapped_shared_memory([child.pid], shared_memory_candidates())
    os.killpg(child.pid, 9)
    child.wait()
    child.stdout.close()
    return made, found


def test_semaphore_of_multiprocessing_is_found_though_it_was_made_under_another_name() -> None:
    made, found = killed_child(MAKE_SEMAPHORE)
    assert len(found) == 1
    assert found <= made
    remove_shared_memory(found)
    assert not found & shared_memory_candidates()


def test_semaphore_of_loky_is_found_by_its_makers_pid() -> None:
    _, found = killed_child(MAKE_LOKY)
    assert len(found) == 1
    remove_shared_memory(found)
    assert not found & shared_memory_candidates()


def test_what_a_living_process_has_mapped_stays() -> None:
    child = subprocess.Popen([sys.executable, "-c", MAKE_SEMAPHORE], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        found = mapped_shared_memory([child.pid], shared_memory_candidates())
        remove_shared_memory(found)
        assert found & shared_memory_candidates() == found != set()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        remove_shared_memory(found)
