"""What SIGKILL leaves in /dev/shm is found by the process that made it, and only that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server_manager.launchers.leftovers import (
    SHARED_MEMORY,
    mapped_shared_memory,
    note_shared_memory,
    noted_shared_memory,
    remove_leavings,
    remove_shared_memory,
    remove_tmpdir,
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


def test_noted_names_are_removed_with_the_folder_and_no_others(tmp_path: Path) -> None:
    noted, other = (f"psm_fake{os.getpid()}-{kind}" for kind in ("noted", "other"))
    for name in (noted, other):
        Path(SHARED_MEMORY, name).touch()
    tmpdir = tmp_path / "deck-0123456789"
    tmpdir.mkdir()
    note_shared_memory(str(tmpdir), {noted})
    note_shared_memory(str(tmpdir), {"psm_gone"})
    assert noted_shared_memory(str(tmpdir)) == {noted, "psm_gone"}
    remove_leavings(str(tmpdir))
    try:
        assert not tmpdir.exists()
        assert not Path(SHARED_MEMORY, noted).exists()
        assert Path(SHARED_MEMORY, other).exists()
    finally:
        Path(SHARED_MEMORY, other).unlink()


def test_notes_that_name_something_else_are_not_believed(tmp_path: Path) -> None:
    note_shared_memory(str(tmp_path), {"../../etc/passwd", "psm_/../x", "my-model", "psm_good"})
    assert noted_shared_memory(str(tmp_path)) == {"psm_good"}


def test_names_that_cannot_be_noted_do_no_harm(tmp_path: Path) -> None:
    note_shared_memory(str(tmp_path / "gone"), {"psm_good"})
    assert noted_shared_memory(str(tmp_path / "gone")) == set()


def test_folder_into_which_somebody_still_writes_is_removed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app's sampler notes a name in the moment in which the folder is removed."""
    tmpdir = tmp_path / "deck-0123456789"
    tmpdir.mkdir()
    late = iter([{"psm_late"}, {"psm_later"}])
    rmdir = os.rmdir

    def note_and_rmdir(path: str) -> None:
        if path == str(tmpdir) and (names := next(late, None)):
            note_shared_memory(path, names)
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", note_and_rmdir)
    remove_tmpdir(str(tmpdir))
    assert not tmpdir.exists()
