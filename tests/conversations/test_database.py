"""The file: what it is made of, what is deleted for good, and what happens when it cannot be used."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
from kept import ID, Kept

from server_manager.conversations import database, schema, shelf
from server_manager.conversations.presets import Preset
from server_manager.conversations.question import Wanted
from server_manager.conversations.turn import INTERRUPTED
from server_manager.errors import NotKept, StateDirError


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.02)
    monkeypatch.setattr(shelf, "_RETRY_SECONDS", 0.0)


class Lock:
    """Another program that writes into the file and does not come to an end."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *exc_info: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


# What it is made of


async def test_files_are_for_this_user_alone(kept: Kept) -> None:
    await kept.ask("one")
    modes = {each.name: each.stat().st_mode & 0o777 for each in kept.path.parent.iterdir()}
    assert set(modes) == {"conversations.db", "conversations.db-wal", "conversations.db-shm"}
    assert set(modes.values()) == {0o600}


async def test_file_of_an_older_app_gets_todays_tables(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    await kept.ask("one")
    newer = (*schema.MIGRATIONS, ("ALTER TABLE conversation ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0",))
    monkeypatch.setattr(schema.migrate, "__defaults__", (newer,))
    await kept.reopen()
    assert await kept.said() == [("one", "yes")]
    await kept.ask("two")
    with sqlite3.connect(kept.path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert connection.execute("SELECT pinned FROM conversation").fetchall() == [(0,)]
    connection.close()


async def test_migration_that_fails_changes_nothing(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    await kept.ask("one")
    broken = (*schema.MIGRATIONS, ("ALTER TABLE conversation ADD COLUMN pinned INTEGER", "CREATE NONSENSE"))
    with monkeypatch.context() as patch:
        patch.setattr(schema.migrate, "__defaults__", (broken,))
        await kept.reopen()
        assert "cannot be read or written" in kept.notices[0]
        await kept.store.close()
    await kept.reopen()
    assert kept.notices == []
    assert await kept.said() == [("one", "yes")]


async def test_file_of_a_newer_app_is_left_as_it_is(kept: Kept) -> None:
    await kept.ask("one")
    await kept.store.close()
    with sqlite3.connect(kept.path) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    connection.close()
    before = kept.path.read_bytes()
    await kept.reopen()
    (notice,) = kept.notices
    assert "newer vLLM Deck" in notice
    assert "in memory only" in notice
    with pytest.raises(StateDirError, match="newer"):
        await kept.store.look(ID, "anna")
    await kept.ask("meanwhile", conversation="conversation-2")
    assert await kept.said("conversation-2") == [("meanwhile", "yes")]
    await kept.store.close()
    assert kept.path.read_bytes() == before
    assert [each.name for each in kept.path.parent.iterdir()] == ["conversations.db"]


# Deleted for good


async def test_deleted_text_is_in_no_file(kept: Kept) -> None:
    await kept.ask("other", "stays", conversation="conversation-2")
    await kept.ask("question 4711 " * 2000, "answer 4711 " * 2000, system_prompt="prompt 4711")
    await kept.ask("", "another 4711", again=(await kept.turns())[0].id)
    await kept.store.change(ID, "anna", title="title 4711")
    assert kept.files_hold("4711")
    await kept.store.delete(ID, "anna")
    assert kept.files_hold("4711") == []
    assert kept.path.stat().st_size < 100_000
    await kept.store.presets.put("anna", Preset("brief", "preset 4711"))
    await kept.store.presets.delete("anna", "brief")
    assert kept.files_hold("4711") == []
    assert await kept.said("conversation-2") == [("other", "stays")]
    assert await kept.store.delete_all("anna") == 1
    assert kept.files_hold("stays") == []


async def test_deletion_that_another_program_holds_up_is_made_up_for(kept: Kept) -> None:
    await kept.ask("question 4711")
    with sqlite3.connect(kept.path, isolation_level=None) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM turn").fetchone()  # sees the old state as long as this goes on
        await kept.store.delete(ID, "anna")
        reader.execute("ROLLBACK")
    reader.close()
    await kept.ask("something else", conversation="conversation-2")
    assert kept.files_hold("4711") == []


# What cannot be written


async def test_answer_goes_on_in_memory_while_the_file_is_locked(kept: Kept) -> None:
    await kept.ask("one")
    with Lock(kept.path):
        await kept.ask("two")
        await kept.ask("new", conversation="conversation-2")
        (notice,) = kept.notices
        assert "another program holds the file" in notice
        assert "kept in memory only" in notice
        assert await kept.said() == [("one", "yes"), ("two", "yes")]
        assert not (await kept.store.look(ID, "anna")).kept
        assert await kept.titles() == ["new", "one"]
        assert await kept.titles("two") == ["one"]
        await kept.store.change("conversation-2", "anna", title="renamed")
        with pytest.raises(StateDirError, match="another program"):
            await kept.store.delete(ID, "anna")
        assert len(await kept.turns()) == 2
    await kept.ask("three")
    assert kept.notices == []
    assert (await kept.store.look(ID, "anna")).kept
    await kept.reopen()
    assert [user for user, _ in await kept.said()] == ["one", "two", "three"]
    assert await kept.titles() == ["one", "renamed"]


async def test_what_is_in_memory_is_written_at_the_end(kept: Kept) -> None:
    with Lock(kept.path):
        await kept.ask("one")
    await kept.reopen()
    assert await kept.said() == [("one", "yes")]


async def test_alternatives_stay_when_a_conversation_comes_home(kept: Kept) -> None:
    old = await kept.ask("one", "old")
    new = await kept.ask("", "new", again=old)
    with Lock(kept.path):
        await kept.ask("two")
        assert (await kept.store.look(ID, "anna")).siblings[0] == (new,), "only what is shown is known meanwhile"
    await kept.ask("three")
    view = await kept.store.look(ID, "anna")
    assert [(turn.user, turn.assistant) for turn in view.turns] == [("one", "new"), ("two", "yes"), ("three", "yes")]
    assert view.siblings[0] == (old, new)


async def test_full_disk_loses_nothing(kept: Kept) -> None:
    await kept.ask("one")

    def limit(pages: int) -> None:
        connection = kept.store._shelf._file._connection
        connection.execute(f"PRAGMA max_page_count = {pages}")

    await asyncio.wrap_future(kept.store._shelf._file.run(lambda: limit(1)))
    await kept.ask("two", "long " * 10_000)
    assert "the disk is full" in kept.notices[0]
    assert "Free some space" in kept.notices[0]
    assert (await kept.said())[1] == ("two", "long " * 10_000)
    await asyncio.wrap_future(kept.store._shelf._file.run(lambda: limit(2**30)))
    await kept.reopen()
    assert kept.notices == []
    assert (await kept.said())[1] == ("two", "long " * 10_000)


async def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "conversations.db").mkdir()  # as good as no right to write: those who test may be root
    kept = Kept(tmp_path / "conversations.db")
    await kept.store.open()
    assert "cannot be read or written" in kept.notices[0]
    await kept.ask("one")
    await kept.ask("two")
    assert len(await kept.turns()) == 2
    assert await kept.titles() == ["one"]
    with pytest.raises(StateDirError):
        await kept.store.presets.put("anna", Preset("brief", "Be brief."))
    with pytest.raises(StateDirError):
        await kept.store.look("conversation-9", "anna")
    with pytest.raises(StateDirError):
        await kept.ask("x", conversation="conversation-9", parent="turn-of-earlier")
    (tmp_path / "conversations.db").rmdir()
    await kept.reopen()
    assert [user for user, _ in await kept.said()] == ["one", "two"]
    await kept.store.close()


# What is damaged


@pytest.mark.parametrize("how", ["garbage", "cut", "overwritten"])
async def test_damaged_file_is_put_aside_and_the_app_goes_on(kept: Kept, how: str) -> None:
    for number in range(30):
        await kept.ask(f"question {number} " * 100)
    await kept.store.close()
    whole = kept.path.read_bytes()
    damaged = {
        "garbage": b"no database at all " * 1000,
        "cut": whole[: len(whole) // 3],
        "overwritten": whole[:100] + b"\xff" * (len(whole) - 100),
    }[how]
    kept.path.write_bytes(damaged)
    await kept.reopen()
    with contextlib.suppress(StateDirError):  # where it is found only now
        await kept.turns()
    assert "damaged" in kept.notices[0]
    assert ".damaged-" in kept.notices[0]
    await kept.ask("after", conversation="conversation-2")
    await kept.reopen()
    assert kept.notices == []
    assert await kept.titles() == ["after"]
    aside = [each for each in kept.path.parent.iterdir() if ".damaged-" in each.name and each.suffix != ".db-wal"]
    assert [each.read_bytes() for each in aside] == [damaged]


async def test_damage_in_the_middle_of_an_answer(kept: Kept) -> None:
    """What is being said goes into the new file, with what was said before it."""
    await kept.ask("one")
    async with kept.store.writing(ID, "anna") as writing:
        made = writing.begin(await writing.place(Wanted("two")), "", "m")
        made.add("half", "")
        made.keep_up()
        await asyncio.wrap_future(made.saving) if made.saving else None

        def damage(connection: sqlite3.Connection) -> None:
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

        with pytest.raises(StateDirError, match="damaged"):
            await kept.change(damage)
        made.add(" and whole", "")
        made.close("")
    await kept.reopen()
    assert await kept.said() == [("one", "yes"), ("two", "half and whole")]
    assert len([each for each in kept.path.parent.iterdir() if ".damaged-" in each.name]) >= 1


# What is left of an app that was killed


async def test_unfinished_turn_is_said_to_be(kept: Kept) -> None:
    await kept.ask("one")
    async with kept.store.writing(ID, "anna") as writing:
        made = writing.begin(await writing.place(Wanted("two")), "", "m")
        made.add("half of", "")
        made.keep_up()
        await asyncio.wrap_future(made.saving) if made.saving else None
        made.add(" it", "")
        other = Kept(kept.path)  # as the next app finds it
        await other.store.open()
        assert [(turn.assistant, turn.note) for turn in await other.turns()] == [("yes", ""), ("half of", INTERRUPTED)]
        await other.store.close()
        made.close("stopped")


async def test_presets_are_each_users_own(kept: Kept) -> None:
    presets = kept.store.presets
    await presets.put("anna", Preset("brief", "Be brief."))
    await presets.put("anna", Preset("brief", "Be very brief."))
    await presets.put("anna", Preset("中文/短", "请简短回答。"))
    await presets.put("berta", Preset("brief", "Say little."))
    await kept.reopen()
    presets = kept.store.presets
    assert await presets.listed("anna") == [Preset("brief", "Be very brief."), Preset("中文/短", "请简短回答。")]
    assert await presets.get("berta", "brief") == Preset("brief", "Say little.")
    await presets.delete("anna", "brief")
    with pytest.raises(NotKept):
        await presets.delete("anna", "brief")
    assert len(await presets.listed("berta")) == 1
