"""What the model is sent of a conversation."""

from __future__ import annotations

import base64

from server_manager.chat_messages import (
    Exchange,
    chat_messages,
    has_images,
    most_tokens,
)

PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\nrest").decode()


def test_turns_alternate_after_the_system_prompt() -> None:
    found = chat_messages([Exchange("one", "eins"), Exchange("two", ""), Exchange("three", None)], "Be brief.")
    assert [(message["role"], message["content"]) for message in found] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "eins"),
        ("user", "two"),
        ("assistant", ""),
        ("user", "three"),
    ]
    assert not has_images(found)
    assert chat_messages([Exchange("one", None)], "  \n") == [{"role": "user", "content": "one"}]


def test_images_go_before_the_text_of_their_own_turn() -> None:
    found = chat_messages([Exchange("what is it?", "a cat", [PNG]), Exchange("and its colour?", None)])
    assert found[0]["content"] == [
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "text", "text": "what is it?"},
    ]
    assert found[2]["content"] == "and its colour?"
    assert has_images(found)
    assert most_tokens(found) is None, "an image's tokens are not in its bytes"
    assert chat_messages([Exchange("", None, [PNG])])[0]["content"] == [
        {"type": "image_url", "image_url": {"url": PNG}}
    ]


def test_bound_counts_bytes() -> None:
    assert most_tokens(chat_messages([Exchange("€", None)])) == 3 + 16
