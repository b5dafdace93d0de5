"""Conversations as documents to take away."""

from __future__ import annotations

import json

import pytest
from kept import ID, PNG, Kept

from server_manager.conversations.export import as_json, as_markdown, file_name


async def test_markdown_is_what_is_shown(kept: Kept) -> None:
    first = await kept.ask("What is this?", "```python\nprint(1)", images=[PNG], note="stopped")
    await kept.ask("", "old", again=first)
    await kept.store.select(ID, "anna", first)
    await kept.ask("再来一次", "好的。", system_prompt="Be brief.\n\nAnd kind.")
    text = as_markdown(await kept.store.whole(ID, "anna"))
    assert text == (
        "# What is this?\n\n"
        "> **System prompt**\n>\n> Be brief.\n>\n> And kind.\n\n"
        f"## User\n\n![]({PNG})\n\nWhat is this?\n\n"
        "## model-1\n\n```python\nprint(1)\n```\n\n*— stopped*\n\n"
        "## User\n\n再来一次\n\n## model-1\n\n好的。\n"
    )


async def test_json_is_everything(kept: Kept) -> None:
    first = await kept.ask("one", "eins", images=[PNG])
    second = await kept.ask("", "uno", again=first)
    found = json.loads(as_json(await kept.store.whole(ID, "anna")))
    assert (found["format"], found["version"], found["title"]) == ("vllm-deck-conversation", 1, "one")
    assert found["current"] == second
    assert [(turn["id"], turn["parent"], turn["assistant"]) for turn in found["turns"]] == [
        (first, None, "eins"),
        (second, None, "uno"),
    ]
    assert found["turns"][0]["completion_tokens"] == 7
    assert found["turns"][0]["prompt_tokens"] is None
    assert [found["images"][image] for image in found["turns"][0]["images"]] == [PNG]
    assert "owner" not in found


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Of trees", "Of trees.md"),
        ("a/b\\c: d?", "a b c d.md"),
        ("../../etc/passwd", "etc passwd.md"),
        ("", "conversation.md"),
        ("...", "conversation.md"),
        ("量化会损失多少质量？", "量化会损失多少质量？.md"),
        ("x" * 200, "x" * 80 + ".md"),
        ("one\ntwo\x00", "one two.md"),
    ],
)
def test_file_names(title: str, name: str) -> None:
    assert file_name(title, "md") == name
