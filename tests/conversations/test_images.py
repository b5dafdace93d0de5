"""Images of questions: what is taken, kept and sent on."""

from __future__ import annotations

import pytest
from kept import GIF, ID, PNG, Kept, url_of

from server_manager.conversations import images
from server_manager.conversations.images import read_images
from server_manager.conversations.question import Wanted
from server_manager.errors import NotAllowed, NotKept


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF87a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
    ],
)
def test_kind_is_told_by_the_bytes(data: bytes, kind: str) -> None:
    (image_id,), found = read_images([url_of(data, "image/x-something")])
    assert (found[image_id].type, found[image_id].data) == (kind, data)
    assert found[image_id].data_url == url_of(data, kind)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (url_of(b"<svg onload='alert(1)'/>", "image/svg+xml"), "no image that can be used"),
        (url_of(b"<html>", "image/png"), "no image that can be used"),
        ("data:text/html;base64,aaaa", "neither a data URL"),
        ("https://example.com/a.png", "neither a data URL"),
        ("data:image/png;base64,***", "not base64"),
        ("data:image/png;base64,aaa", "not base64"),
        ("", "neither a data URL"),
    ],
)
def test_what_is_no_image_is_refused(text: str, why: str) -> None:
    with pytest.raises(NotAllowed, match=why):
        read_images([text])


def test_too_large_and_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAllowed, match="10 images, and here are 11"):
        read_images([PNG] * 11)
    monkeypatch.setattr(images, "LARGEST_IMAGE_BYTES", 10)
    with pytest.raises(NotAllowed, match="larger than"):
        read_images([PNG])


async def test_images_are_kept_once_and_sent_again(kept: Kept) -> None:
    await kept.ask("What is this?", images=[PNG, GIF])
    await kept.reopen()
    (turn,) = await kept.turns()
    assert len(turn.images) == 2
    assert (await kept.store.image(ID, "anna", turn.images[1])).type == "image/gif"
    # By id, as the page gives those of a question that is edited.
    await kept.ask("And this?", images=[turn.images[0]], parent=turn.id)
    question = await kept.store.place(ID, "anna", Wanted("Compare them."))
    assert [exchange.images for exchange in question.exchanges()] == [(PNG, GIF), (PNG,), ()]
    rows = []
    await kept.change(lambda connection: rows.extend(connection.execute("SELECT id FROM image")))
    assert len(rows) == 2
    again = await kept.store.place(ID, "anna", Wanted("", again=turn.id))
    assert [exchange.images for exchange in again.exchanges()] == [(PNG, GIF)]


async def test_images_go_with_a_branch_and_with_the_conversation(kept: Kept) -> None:
    turn = await kept.ask("What is this?", images=[PNG])
    (image,) = (await kept.turns())[0].images
    new_id = await kept.store.branch(ID, "anna", turn)
    await kept.store.delete(ID, "anna")
    assert (await kept.store.image(new_id, "anna", image)).data_url == PNG
    await kept.store.delete(new_id, "anna")
    with pytest.raises(NotKept):
        await kept.store.image(new_id, "anna", image)
    assert kept.files_hold("pixels") == []


async def test_image_of_another_conversation_is_not_there(kept: Kept) -> None:
    await kept.ask("What is this?", images=[PNG])
    (image,) = (await kept.turns())[0].images
    for conversation in ("conversation-2", "conversation-3"):
        with pytest.raises(NotKept, match="not in this conversation"):
            await kept.ask("x", images=[image], conversation=conversation)
        await kept.ask("begun", conversation=conversation)
    with pytest.raises(NotKept):
        await kept.store.image(ID, "anna", "0" * 32)
