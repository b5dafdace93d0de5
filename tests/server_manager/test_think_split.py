"""Thinking that is left in the text."""

from __future__ import annotations

import pytest

from server_manager.think_split import ThinkSplit


def split(pieces: list[str], *, thinking: bool = False) -> tuple[str, str]:
    """Content and reasoning, as somebody who follows the stream ends up with them."""
    splitter = ThinkSplit(thinking=thinking)
    content = reasoning = ""
    for piece in [*(splitter.feed(text) for text in pieces), splitter.end()]:
        if piece.recast:
            content, reasoning = "", content
        content += piece.content
        reasoning += piece.reasoning
    return content, reasoning.rstrip()


CASES = [
    ("<think>\nHm.\nYes.\n</think>\n\nParis.", False, "Paris.", "Hm.\nYes."),
    ("\n <think>Hm.</think>Paris.", False, "Paris.", "Hm."),
    ("<think>\n\n</think>\n\nParis.", False, "Paris.", ""),
    ("Hm.\nYes.\n</think>\n\nParis.", True, "Paris.", "Hm.\nYes."),
    ("\nHm.\nYes.\n</think>\n\nParis.", False, "Paris.", "\nHm.\nYes."),
    ("</think>\nParis.", False, "Paris.", ""),
    ("<think>and cut off <by max_tok", False, "", "and cut off <by max_tok"),
    ("Paris.\n\n- a < b\n\n", False, "Paris.\n\n- a < b\n\n", ""),
    ("Models write <think> and\n</think> around it.", False, "Models write <think> and\n</think> around it.", ""),
    ("The tag `</think>` ends it.", False, "The tag `</think>` ends it.", ""),
    ("The tag </think> ends it.", False, "The tag </think> ends it.", ""),
    ("```xml\n<x>\n</think>\n```\nThat.", False, "```xml\n<x>\n</think>\n```\nThat.", ""),
    ("<think>`</think>`.\n```\n</think>\n```\n</think>So.", False, "So.", "`</think>`.\n```\n</think>\n```"),
    ("<think>a</think>Use `<think>`…\n</think>", False, "Use `<think>`…\n</think>", "a"),
    ("<thinking about it", False, "<thinking about it", ""),
    ("   ", False, "   ", ""),
    ("<thi", False, "<thi", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "thinking", "content", "reasoning"), CASES)
def test_a_stream_cut_anywhere_is_split_the_same(text: str, thinking: bool, content: str, reasoning: str) -> None:
    assert split([text], thinking=thinking) == (content, reasoning)
    assert split(list(text), thinking=thinking) == (content, reasoning)
    for cut in range(len(text)):
        assert split([text[:cut], text[cut:]], thinking=thinking) == (content, reasoning), f"cut at {cut}"


def test_text_is_not_held_back_longer_than_it_must() -> None:
    splitter = ThinkSplit()
    assert splitter.feed("<think>Hm").reasoning == "Hm"
    assert splitter.feed(", a <").reasoning == ", a"
    assert splitter.feed("b").reasoning == " <b"
    assert splitter.feed("</think>Yes").content == "Yes"
    assert splitter.decided
    assert splitter.feed(" </").content == " </"


def test_answer_without_thinking_flows() -> None:
    splitter = ThinkSplit()
    assert splitter.feed("Par").content == "Par"
    assert splitter.feed("is is").content == "is is"
