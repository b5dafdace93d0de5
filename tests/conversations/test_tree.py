"""Conversations as trees: alternatives, branches, and two tabs at the same one."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import asdict

import pytest
from kept import ID, Kept

from server_manager.conversations import tree
from server_manager.conversations.question import Wanted
from server_manager.conversations.turn import Turn
from server_manager.errors import NotAllowed, NotKept


async def test_turns_follow_one_another_across_runs(kept: Kept) -> None:
    first = await kept.ask("one", "eins", system_prompt="Be brief.")
    await kept.ask("two", "zwei", system_prompt="Be long.")
    await kept.reopen()
    view = await kept.store.look(ID, "anna")
    assert [(turn.user, turn.assistant) for turn in view.turns] == [("one", "eins"), ("two", "zwei")]
    assert (view.turns[0].parent, view.turns[1].parent) == (None, first)
    assert (view.turns[0].model, view.turns[0].note, view.turns[0].figures.completion_tokens) == ("model-1", "", 7)
    assert view.turns[0].figures.prompt_tokens is None
    assert (view.header.title, view.header.model, view.header.system_prompt) == ("one", "model-1", "Be long.")
    assert (view.busy, view.kept) == (False, True)


async def test_regenerate_is_a_sibling_with_the_same_question(kept: Kept) -> None:
    await kept.ask("one")
    old = await kept.ask("two", "old")
    await kept.ask("three")
    new = await kept.ask("", "new", again=old)
    view = await kept.store.look(ID, "anna")
    assert [(turn.user, turn.assistant) for turn in view.turns] == [("one", "yes"), ("two", "new")]
    assert view.siblings == ((view.turns[0].id,), (old, new))
    # The old one is shown again, with what followed it.
    view = await kept.store.select(ID, "anna", old)
    assert [turn.user for turn in view.turns] == ["one", "two", "three"]
    assert view.turns[1].assistant == "old"
    assert view.siblings[1] == (old, new)
    await kept.ask("four")
    assert [user for user, _ in await kept.said()] == ["one", "two", "three", "four"]


async def test_edit_of_any_turn_is_a_sibling_with_another_question(kept: Kept) -> None:
    first = await kept.ask("one")
    await kept.ask("two")
    other = await kept.ask("ONE", parent=None)
    assert await kept.said() == [("ONE", "yes")]
    view = await kept.store.look(ID, "anna")
    assert view.siblings == ((first, other),)
    assert view.header.title == "one", "named by what was asked first"
    await kept.ask("TWO", parent=first)
    assert [user for user, _ in await kept.said()] == ["one", "TWO"]


async def test_selected_turn_leads_to_the_newest_of_what_follows(kept: Kept) -> None:
    first = await kept.ask("one")
    second = await kept.ask("two")
    await kept.ask("three")
    await kept.ask("THREE", parent=second)
    await kept.ask("ONE", parent=None)
    view = await kept.store.select(ID, "anna", first)
    assert [turn.user for turn in view.turns] == ["one", "two", "THREE"]


async def test_branch_is_a_conversation_of_its_own(kept: Kept) -> None:
    first = await kept.ask("one", system_prompt="Be brief.")
    await kept.ask("two")
    new_id = await kept.store.branch(ID, "anna", first)
    assert await kept.said(new_id) == [("one", "yes")]
    await kept.ask("two, otherwise", conversation=new_id)
    assert [user for user, _ in await kept.said(new_id)] == ["one", "two, otherwise"]
    assert [user for user, _ in await kept.said()] == ["one", "two"], "the old one is as it was"
    view = await kept.store.look(new_id, "anna")
    assert (view.header.title, view.header.system_prompt) == ("one (2)", "")
    assert view.turns[0].id != first
    await kept.store.delete(ID, "anna")
    assert len(await kept.turns(new_id)) == 2
    assert (await kept.store.look(await kept.store.branch(new_id, "anna", view.turns[0].id), "anna")).header.title == (
        "one (3)"
    )


async def test_turn_of_another_conversation_is_no_place_to_go_on(kept: Kept) -> None:
    await kept.ask("one")
    other = await kept.ask("else", conversation="conversation-2")
    for wanted in ({"parent": other}, {"again": other}, {"parent": "nonsense"}):
        with pytest.raises(NotKept):
            await kept.ask("two", **wanted)
    with pytest.raises(NotKept):
        await kept.store.select(ID, "anna", other)
    with pytest.raises(NotKept):
        await kept.store.branch(ID, "anna", other)
    assert await kept.said() == [("one", "yes")]
    assert not (await kept.store.look(ID, "anna")).busy


async def test_conversation_of_1500_turns_is_read_and_deleted(kept: Kept) -> None:
    """More than SQLite follows a chain by itself."""
    above = await kept.ask("question 0")

    def add(connection: sqlite3.Connection) -> None:
        parent = above
        for number in range(1, 1499):
            tree.put_turn(connection, ID, Turn(f"turn-{number}", parent, f"question {number}", assistant="yes"))
            parent = f"turn-{number}"

    await kept.change(add)
    await kept.ask("question 1499", parent="turn-1498")
    turns = await kept.turns()
    assert [turn.user for turn in turns] == [f"question {number}" for number in range(1500)]
    assert (await kept.store.listed("anna"))[0].turns == 1500
    await kept.store.delete(ID, "anna")
    assert await kept.turns() == ()


async def test_second_tab_waits_for_the_answer(kept: Kept) -> None:
    async with kept.store.writing(ID, "anna") as writing:
        made = writing.begin(await writing.place(Wanted("one")), "", "m")
        for refused in (kept.ask("two"), kept.store.delete(ID, "anna"), kept.store.delete_all("anna")):
            with pytest.raises(NotAllowed, match="being answered already"):
                await refused
        made.add("half", "thought")
        made.keep_up()
        await asyncio.wrap_future(made.saving) if made.saving else None
        made.add(" more", "")
        view = await kept.store.look(ID, "anna")
        assert view.busy
        assert (view.turns[0].assistant, view.turns[0].reasoning) == ("half more", "thought"), "newer than on disk"
        with pytest.raises(NotAllowed, match="being answered"):
            await kept.store.branch(ID, "anna", made.turn)
        await kept.store.change(ID, "anna", title="Renamed meanwhile")
        made.close("stopped")
    assert await kept.said() == [("one", "half more")]
    await kept.ask("two")
    assert [turn.note for turn in await kept.turns()] == ["stopped", ""]
    assert await kept.titles() == ["Renamed meanwhile"]


async def test_sibling_that_is_selected_while_another_is_made(kept: Kept) -> None:
    old = await kept.ask("one", "old")
    async with kept.store.writing(ID, "anna") as writing:
        made = writing.begin(await writing.place(Wanted("", again=old)), "", "m")
        made.add("new", "")
        made.keep_up()
        await asyncio.wrap_future(made.saving) if made.saving else None
        await kept.store.select(ID, "anna", old)
        made.close("")
    assert await kept.said() == [("one", "old")]
    assert (await kept.store.look(ID, "anna")).siblings == ((old, made.turn),)


async def test_answer_without_text_is_not_kept(kept: Kept) -> None:
    await kept.ask("one", "")
    assert await kept.turns() == ()
    assert await kept.store.listed("anna") == []


async def test_nobody_sees_what_is_somebody_elses(kept: Kept) -> None:
    turn = await kept.ask("one")
    await kept.ask("mine", conversation="conversation-2", owner="berta")
    store = kept.store
    for refused in (
        store.look(ID, "berta"),
        store.change(ID, "berta", title="x"),
        store.select(ID, "berta", turn),
        store.branch(ID, "berta", turn),
        store.whole(ID, "berta"),
        store.image(ID, "berta", "0" * 32),
        store.delete(ID, "berta"),
        kept.ask("two", owner="berta"),
        kept.ask("two", owner="berta", keep=False),
    ):
        with pytest.raises(NotAllowed, match="somebody else's"):
            await refused
    assert await kept.titles(owner="berta") == ["mine"]
    assert await kept.titles("one", owner="berta") == []
    assert await store.delete_all("berta") == 1
    assert await kept.titles(owner="berta") == []
    assert await kept.said() == [("one", "yes")]


async def test_deletion_is_not_undone_by_a_question_of_the_same_moment(kept: Kept) -> None:
    await kept.ask("one")
    deleting = asyncio.create_task(kept.store.delete(ID, "anna"))
    asking = asyncio.create_task(kept.ask("two"))
    await asyncio.gather(deleting, asking, return_exceptions=True)
    assert ("one", "yes") not in await kept.said() or deleting.exception()
    await kept.ask("one", conversation="conversation-2")
    deleting_all = asyncio.create_task(kept.store.delete_all("anna"))
    await asyncio.sleep(0)
    with pytest.raises(NotAllowed, match="being deleted"):
        await kept.ask("two", conversation="conversation-2")
    await deleting_all
    assert await kept.turns("conversation-2") == ()


@pytest.mark.parametrize("bad", ["", "short", "x" * 65, "../etc/passwd", "a b c d e f"])
async def test_malformed_ids_are_refused(kept: Kept, bad: str) -> None:
    for refused in (kept.store.look(bad, "anna"), kept.store.delete(bad, "anna"), kept.ask("x", conversation=bad)):
        with pytest.raises(NotAllowed, match="id of a conversation"):
            await refused


async def test_temporary_conversation_leaves_nothing(kept: Kept) -> None:
    await kept.ask("a secret question", "a secret answer", keep=False)
    await kept.ask("and more", keep=True)  # it stays what it was begun as
    assert len(await kept.turns()) == 2
    assert not (await kept.store.look(ID, "anna")).kept
    assert await kept.titles() == []
    assert kept.files_hold("secret") == []
    first = (await kept.turns())[0].id
    new_id = await kept.store.branch(ID, "anna", first)
    assert not (await kept.store.look(new_id, "anna")).kept
    await kept.store.delete(new_id, "anna")
    assert await kept.turns(new_id) == ()
    await kept.reopen()
    assert await kept.turns() == ()
    assert kept.files_hold("secret") == []


async def test_temporary_conversations_used_longest_ago_go(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server_manager.conversations.shelf.MOST_TEMPORARY", 2)
    for number in (1, 2, 1, 3):
        await kept.ask("hello", conversation=f"conversation-{number}", keep=False)
    assert [len(await kept.turns(f"conversation-{number}")) for number in (1, 2, 3)] == [2, 0, 1]


async def test_title_is_the_first_question_until_somebody_names_it(kept: Kept) -> None:
    await kept.ask("\n\n  ## What   is a *tree*?\nTell me more about it.")
    await kept.ask("Second")
    assert await kept.titles() == ["What is a *tree*?"]
    await kept.store.change(ID, "anna", title="  My \n trees " + "x" * 500)
    (title,) = await kept.titles()
    assert title.startswith("My trees xxx")
    assert len(title) == 200
    await kept.store.change(ID, "anna", title=" ")
    assert await kept.titles() == ["What is a *tree*?"]
    with pytest.raises(NotKept):
        await kept.store.change("conversation-9", "anna", title="x")


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("word " * 30, "word word word word word word word word word word word…"),
        ("长" * 100, "长" * 59 + "…"),
        ("", ""),
        ("``` \n---\n", ""),
        ("x" * 60, "x" * 60),
    ],
)
async def test_long_titles_are_cut(kept: Kept, question: str, title: str) -> None:
    await kept.ask(question)
    assert await kept.titles() == [title]


async def test_figures_of_a_newer_app_are_left_aside(kept: Kept) -> None:
    turn = await kept.ask("one")
    newer = """UPDATE turn SET figures = '{"new_figure": 1, "prompt_tokens": 3}' WHERE id = ?"""
    await kept.change(lambda connection: connection.execute(newer, (turn,)))
    (found,) = await kept.turns()
    assert {name: value for name, value in asdict(found.figures).items() if value is not None} == {"prompt_tokens": 3}
