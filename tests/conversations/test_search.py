"""Search over titles and texts."""

from __future__ import annotations

import pytest
from kept import ID, Kept

TITLES = {
    "conversation-1": ("Trees in winter", "They lose their leaves."),
    "conversation-2": ("量化会损失多少质量？", "通常很少：四位量化大约损失百分之一。"),
    "conversation-3": ("Größe des Ärgers", "100% a_b \\ c"),
}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["conversation-3", "conversation-2", "conversation-1"]),
        ("winter", ["conversation-1"]),
        ("WINTER", ["conversation-1"]),
        ("lose inter", ["conversation-1"]),
        ("lose summer", []),
        ("量化", ["conversation-2"]),
        ("百分之一", ["conversation-2"]),
        ("量化 质量", ["conversation-2"]),
        ("质数", []),
        ("ärger", ["conversation-3"]),
        ("GRÖ", ["conversation-3"]),
        ("100%", ["conversation-3"]),
        ("a_b", ["conversation-3"]),
        ("axb", []),
        ("\\", ["conversation-3"]),
        ("'; DROP TABLE turn; --", []),
        ("the " * 300, ["conversation-1"]),
    ],
)
async def test_finds_every_word_in_title_or_texts(kept: Kept, query: str, found: list[str]) -> None:
    for conversation, (question, answer) in TITLES.items():
        await kept.ask(question, answer, conversation=conversation)
    assert [each.id for each in await kept.store.listed("anna", query)] == found


async def test_finds_alternatives_and_new_titles(kept: Kept) -> None:
    first = await kept.ask("one", "the first answer")
    await kept.ask("", "the second", again=first)
    await kept.store.change(ID, "anna", title="Of numbers")
    assert await kept.titles("FIRST numbers") == ["Of numbers"]


async def test_newest_come_first_and_as_many_as_wanted(kept: Kept) -> None:
    for number in (1, 2, 3, 1):
        await kept.ask(f"question {number}", conversation=f"conversation-{number}")
    found = await kept.store.listed("anna", limit=2)
    assert [(each.id, each.turns, each.model) for each in found] == [
        ("conversation-1", 2, "model-1"),
        ("conversation-3", 1, "model-1"),
    ]
    assert found[0].updated >= found[1].updated
