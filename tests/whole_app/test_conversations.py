"""What was said is there after the app's end, however it ended."""

from __future__ import annotations

import signal

import pytest
from deck_app import DeckApp, Place, eventually, text_of

from whole_app.conftest import Run
from whole_app.test_ending import OpenAnswer

pytestmark = pytest.mark.slow


def turns_of(app: DeckApp, conversation: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = app.get(f"/api/conversations/{conversation}")["turns"]
    return found


@pytest.mark.parametrize(
    ("how", "note"), [(signal.SIGKILL, "vLLM Deck ended in the middle of this answer."), (signal.SIGTERM, "stopped")]
)
def test_text_so_far_is_kept_when_the_app_ends_in_mid_answer(place: Place, run: Run, how: int, note: str) -> None:
    app = run()
    app.start("quick")
    assert text_of(app.chat("quick", "Before", conversation="conversation-0"))
    app.start("slow")
    answer = OpenAnswer(app, "slow")
    # At the end all is kept; when killed, all but the last seconds.
    eventually(lambda: "word15 " in "".join(answer.lines), "sixteen words of five a second")
    app.process.send_signal(how)
    app.process.wait(timeout=30)
    answer.join()
    app = run()
    (turn,) = turns_of(app, answer.conversation)
    assert turn["user"] == "Hello"
    assert turn["assistant"].startswith("word0 word1 word2 word3 word4 ")
    assert turn["note"] == note
    assert [turn["note"] for turn in turns_of(app, "conversation-0")] == [""]
    assert {each["title"] for each in app.get("/api/conversations")} == {"Before", "Hello"}
    # And goes on.
    app.start("quick")
    assert app.chat("quick", "Go on", conversation=answer.conversation)[-1]["type"] == "done"
    assert [turn["user"] for turn in turns_of(app, answer.conversation)] == ["Hello", "Go on"]


def test_damaged_file_does_not_keep_the_app_from_starting(place: Place, run: Run) -> None:
    place.state_dir.mkdir()
    (place.state_dir / "conversations.db").write_bytes(b"this is no database " * 500)
    app = run()
    (notice,) = app.get("/api/snapshot")["notices"]
    assert "damaged" in notice
    app.start("quick")
    assert app.chat("quick", conversation="conversation-1")[-1]["type"] == "done"
    app.end()
    app = run()
    assert app.get("/api/snapshot")["notices"] == []
    assert len(turns_of(app, "conversation-1")) == 1
    (aside,) = place.state_dir.glob("conversations.db.damaged-*")
    assert aside.read_bytes() == b"this is no database " * 500
