"""Records of servers on disk."""

from __future__ import annotations

import errno
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from server_manager.errors import StateDirError
from server_manager.handle_store import HandleStore
from server_manager.launchers.base import HandleRecord

RECORD = HandleRecord(
    name="Qwen2.5-7B",
    launcher="local",
    pid=4711,
    start_ticks=1795440,
    boot_id="9a6ddd52-7b5c-4b1e-a2ff-04cf0a6b3c11",
    port=8101,
    log_path="/state/logs/x.log",
    tmpdir="/tmp/deck-1",
    api_key="key",
    argv=("vllm", "serve", "模型"),
    env={"A": "b"},
    started_at=1795440466.0,
    marker="Qwen2.5-7B:1f",
    likely_tokens=(" Paris", " the"),
    will_hold={"GPU-0": 73 * 2**30},
)


@pytest.fixture
def store(tmp_path: Path) -> HandleStore:
    return HandleStore(tmp_path / "servers")


def test_saved_records_come_back(store: HandleStore) -> None:
    other = replace(RECORD, name="another", pid=12)
    store.save(RECORD)
    store.save(other)
    assert store.load_all() == (RECORD, other)


def test_nothing_saved_yet(store: HandleStore) -> None:
    assert store.load_all() == ()
    store.remove("nobody")


def test_only_this_user_can_read_the_key(store: HandleStore, tmp_path: Path) -> None:
    store.save(RECORD)
    (file,) = (tmp_path / "servers").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_amended_record_is_the_new_one(store: HandleStore) -> None:
    store.save(replace(RECORD, likely_tokens=()))
    store.amend(RECORD)
    assert store.load_all() == (RECORD,)


def test_record_of_a_later_life_is_not_amended(store: HandleStore) -> None:
    later = replace(RECORD, marker="Qwen2.5-7B:2e")
    store.save(later)
    store.amend(RECORD)
    assert store.load_all() == (later,)
    store.remove(RECORD.name)
    store.amend(RECORD)
    assert store.load_all() == ()


def test_record_of_an_older_version_knows_less(store: HandleStore, tmp_path: Path) -> None:
    store.save(RECORD)
    (file,) = (tmp_path / "servers").iterdir()
    written = json.loads(file.read_text())
    del written["likely_tokens"], written["will_hold"]
    file.write_text(json.dumps(written))
    assert store.load_all() == (replace(RECORD, likely_tokens=(), will_hold={}),)


def test_removed_record_is_gone(store: HandleStore) -> None:
    store.save(RECORD)
    store.remove(RECORD.name)
    assert store.load_all() == ()


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"name": "x"}', '{"argv": 3, "env": 4}', "\ud800"])
def test_broken_file_is_reported_and_the_others_are_read(
    store: HandleStore, tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(RECORD)
    (tmp_path / "servers" / "bad.json").write_bytes(broken.encode("utf-8", "surrogatepass"))
    assert store.load_all() == (RECORD,)
    assert "bad.json" in caplog.text


def test_name_cannot_leave_the_folder(store: HandleStore, tmp_path: Path) -> None:
    for name in ("../../evil", "a/b", "..", "a.b", "a%2Eb"):
        store.save(replace(RECORD, name=name))
    assert len(store.load_all()) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["servers"]


def test_record_of_a_newer_version_is_read(store: HandleStore, tmp_path: Path) -> None:
    store.save(RECORD)
    (file,) = (tmp_path / "servers").iterdir()
    file.write_text(file.read_text().replace('"name"', '"new_field": 1, "name"'))
    assert store.load_all() == (RECORD,)


def test_full_disk_keeps_the_old_record_and_says_so(
    store: HandleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(RECORD)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StateDirError, match="No space left") as caught:
        store.save(replace(RECORD, pid=99))
    assert "Free some space" in caught.value.next_step
    assert store.load_all() == (RECORD,)
    assert len(list((tmp_path / "servers").iterdir())) == 1
