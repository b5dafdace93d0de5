"""The routes of conversations: what the page's list, its alternatives, exports and presets are made of."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from deck_app import LOCAL_HTTP, DeckApp, eventually, text_of
from people import OPERATOR, USER

PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n pixels").decode()


@pytest.fixture(scope="module")
def echo(app: DeckApp) -> Iterator[DeckApp]:
    """The app, with the model ``mirror`` up: it can see, and answers with the request that it gets."""
    weights = app.place.models_dir / "mirror-weights"
    weights.mkdir()
    (weights / "config.json").write_text(json.dumps({"max_position_embeddings": 4096, "vision_config": {"depth": 1}}))
    app.place.add_model("mirror", echo=1)
    file = app.place.models_dir / "mirror.yaml"
    file.write_text(file.read_text().replace(str(app.place.weights), str(weights)))
    app.start("mirror")
    yield app
    app.post("/api/servers/mirror/stop")


@pytest.fixture
def conversation() -> str:
    return uuid.uuid4().hex


def ask(app: DeckApp, conversation: str, text: str = "Hello", **more: object) -> tuple[str, list[dict[str, Any]]]:
    """The turn's id, and the messages that the model was sent."""
    frames = app.chat("mirror", text, conversation=conversation, **more)
    assert frames[-1]["type"] == "done", frames[-1]
    turn = next(frame for frame in frames if frame["type"] == "turn")
    return turn["turn"], json.loads(text_of(frames))["messages"]


def shown(app: DeckApp, conversation: str) -> list[str]:
    return [turn["user"] for turn in app.get(f"/api/conversations/{conversation}")["turns"]]


def test_turns_with_alternatives(echo: DeckApp, conversation: str) -> None:
    first, _ = ask(echo, conversation, "one", system_prompt="Be brief.")
    second, _ = ask(echo, conversation, "two")
    third, messages = ask(echo, conversation, again=second)
    assert [message["content"] for message in messages if message["role"] == "user"] == ["one", "two"]
    found = echo.get(f"/api/conversations/{conversation}")
    assert (found["id"], found["title"], found["model"], found["busy"]) == (conversation, "one", "mirror", False)
    assert [turn["id"] for turn in found["turns"]] == [first, third]
    assert [turn["siblings"] for turn in found["turns"]] == [[first], [second, third]]
    turn = found["turns"][1]
    assert (turn["user"], turn["parent"], turn["model"], turn["note"]) == ("two", first, "mirror", "")
    assert turn["completion_tokens"] > 0
    assert turn["finish_reason"] == "stop"
    assert set(turn) >= {"prompt_tokens", "reasoning_tokens", "reasoning_s", "first_token_s", "tokens_per_second"}
    found = echo.post(f"/api/conversations/{conversation}/select", {"turn": second})
    assert [turn["id"] for turn in found["turns"]] == [first, second]
    _, messages = ask(echo, conversation, "ONE", parent=None)
    assert [message["content"] for message in messages] == ["ONE"]
    assert shown(echo, conversation) == ["ONE"]


def test_turn_frame_says_where_the_answer_goes(echo: DeckApp, conversation: str) -> None:
    frames = echo.chat("mirror", conversation=conversation)
    assert frames[0] == {"type": "turn", "turn": frames[0]["turn"], "parent": None}
    assert echo.chat("mirror", conversation=conversation)[0]["parent"] == frames[0]["turn"]


def test_list_search_rename_delete(echo: DeckApp, conversation: str) -> None:
    ask(echo, conversation, f"小猫 of {conversation}")
    (found,) = echo.get(f"/api/conversations?q={conversation}")
    assert (found["id"], found["title"], found["turns"]) == (conversation, f"小猫 of {conversation}", 1)
    assert found["model"] == "mirror"
    assert echo.get("/api/conversations")[0] == found, "the newest first"
    assert conversation in [each["id"] for each in echo.get("/api/conversations?q=小猫")]
    assert echo.get("/api/conversations?q=nosuchword") == []
    renamed = echo.http.patch(f"/api/conversations/{conversation}", json={"title": "Cats"}).json()
    assert (renamed["title"], renamed["id"]) == ("Cats", conversation)
    renamed = echo.http.patch(f"/api/conversations/{conversation}", json={"system_prompt": "Be kind."}).json()
    assert (renamed["title"], renamed["system_prompt"]) == ("Cats", "Be kind.")
    assert echo.delete(f"/api/conversations/{conversation}") == {"deleted": conversation}
    assert echo.get(f"/api/conversations?q={conversation}") == []
    assert shown(echo, conversation) == []


def test_branch(echo: DeckApp, conversation: str) -> None:
    first, _ = ask(echo, conversation, "one")
    ask(echo, conversation, "two")
    branch = echo.post(f"/api/conversations/{conversation}/branch", {"turn": first}, status=201)["id"]
    assert shown(echo, branch) == ["one"]
    assert shown(echo, conversation) == ["one", "two"]


def test_images_reach_the_model_and_come_back(echo: DeckApp, conversation: str) -> None:
    _, messages = ask(echo, conversation, "What is this?", images=[PNG])
    assert messages[0]["content"] == [
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "text", "text": "What is this?"},
    ]
    (turn,) = echo.get(f"/api/conversations/{conversation}")["turns"]
    (image,) = turn["images"]
    answer = echo.http.get(f"/api/conversations/{conversation}/images/{image}")
    assert answer.content == base64.b64decode(PNG.partition(",")[2])
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    _, messages = ask(echo, conversation, "And now?", images=[image])
    assert [len(message["content"]) for message in messages if message["role"] == "user"] == [2, 2]
    assert echo.get(f"/api/conversations/{conversation}/images/{'0' * 32}", 404)["error"]["code"] == "not_kept"
    (error,) = echo.chat("mirror", conversation=conversation, images=["data:image/png;base64,PGh0bWw+"])
    assert (error["type"], error["code"]) == ("error", "not_allowed")


def test_export(echo: DeckApp, conversation: str) -> None:
    ask(echo, conversation, "你好: world?")
    answer = echo.http.get(f"/api/conversations/{conversation}/export?format=md")
    assert answer.text.startswith("# 你好: world?\n\n## User\n")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "filename*=UTF-8''%E4%BD%A0%E5%A5%BD%20world.md" in answer.headers["content-disposition"]
    found = echo.get(f"/api/conversations/{conversation}/export?format=json")
    assert [turn["user"] for turn in found["turns"]] == ["你好: world?"]
    assert echo.get(f"/api/conversations/{conversation}/export?format=exe", 422)
    assert echo.get(f"/api/conversations/{uuid.uuid4().hex}/export", 404)["error"]["code"] == "not_kept"


def test_temporary_conversation_is_in_no_list(echo: DeckApp, conversation: str) -> None:
    ask(echo, conversation, f"secret {conversation}", keep=False)
    _, messages = ask(echo, conversation, "more", keep=False)
    assert len(messages) == 3
    assert not echo.get(f"/api/conversations/{conversation}")["kept"]
    assert echo.get(f"/api/conversations?q={conversation}") == []


@pytest.mark.parametrize(("change", "code"), [({"parent": "nosuch"}, "not_kept"), ({"again": "nosuch"}, "not_kept")])
def test_turns_that_are_not_there(echo: DeckApp, conversation: str, change: dict[str, str], code: str) -> None:
    ask(echo, conversation)
    (error,) = echo.chat("mirror", conversation=conversation, **change)
    assert (error["type"], error["code"]) == ("error", code)
    for act in ("select", "branch"):
        assert echo.post(f"/api/conversations/{conversation}/{act}", {"turn": "nosuch"}, status=404)
    assert shown(echo, conversation) == ["Hello"]


def test_what_a_browser_may_send_is_limited(echo: DeckApp, conversation: str) -> None:
    body = json.dumps({"conversation": conversation, "model": "mirror", "text": "x" * (65 * 2**20)}).encode()
    pieces = (body[at : at + 2**20] for at in range(0, len(body), 2**20))  # sent without a length
    for content in (body, pieces):
        answer = echo.http.post("/api/chat", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"
    assert echo.http.patch(f"/api/conversations/{conversation}", json={"system_prompt": "x" * 2_000_001}).is_error
    assert echo.http.put("/api/presets/long", json={"text": "x" * 2_000_001}).status_code == 422
    assert echo.http.put(f"/api/presets/{'n' * 101}", json={"text": "x"}).status_code == 409


@pytest.mark.parametrize("text", ["\ud800", "null \x00 in it", "‮right to left", "😀" * 10])
def test_odd_text_does_no_harm(echo: DeckApp, conversation: str, text: str) -> None:
    body = json.dumps({"conversation": conversation, "model": "mirror", "text": text})
    answer = echo.http.post("/api/chat", content=body, headers={"Content-Type": "application/json"})
    if answer.status_code == 422:
        assert shown(echo, conversation) == []
    else:
        assert json.loads(answer.text.splitlines()[-1])["type"] == "done"
        assert shown(echo, conversation) == [text]


def test_presets(echo: DeckApp) -> None:
    assert echo.put("/api/presets/中文/短", {"text": "请简短回答。"}) == {"name": "中文/短", "text": "请简短回答。"}
    assert echo.get("/api/presets") == [{"name": "中文/短", "text": "请简短回答。"}]
    assert echo.get("/api/presets/中文/短")["text"] == "请简短回答。"
    assert echo.delete("/api/presets/中文/短") == {"deleted": "中文/短"}
    assert echo.get("/api/presets/中文/短", 404)["error"]["code"] == "not_kept"


def test_each_user_has_their_own(guarded: DeckApp) -> None:
    """Also from operators: what somebody has said and put by is nobody else's."""
    with (
        httpx.Client(base_url=guarded.url, timeout=60, **LOCAL_HTTP, auth=OPERATOR) as olga,
        httpx.Client(base_url=guarded.url, timeout=60, **LOCAL_HTTP, auth=USER) as ulf,
    ):
        olga.post("/api/servers/quick/start").raise_for_status()
        eventually(lambda: olga.get("/api/servers/quick").json()["state"] == "ready", "the server")
        body = {"conversation": "ulfs-own-12345", "model": "quick", "text": "A secret"}
        assert json.loads(ulf.post("/api/chat", json=body).text.splitlines()[-1])["type"] == "done"
        ulf.put("/api/presets/mine", json={"text": "Be brief."}).raise_for_status()
        (turn,) = ulf.get("/api/conversations/ulfs-own-12345").json()["turns"]
        assert len(ulf.get("/api/conversations?q=secret").json()) == 1
        path = "/api/conversations/ulfs-own-12345"
        for method, rest, form in (
            ("GET", "", None),
            ("PATCH", "", {"title": "x"}),
            ("POST", "/select", {"turn": turn["id"]}),
            ("POST", "/branch", {"turn": turn["id"]}),
            ("GET", "/export", None),
            ("GET", f"/images/{'0' * 32}", None),
            ("DELETE", "", None),
        ):
            answer = olga.request(method, path + rest, json=form)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_allowed"), rest
        assert olga.get("/api/conversations?q=secret").json() == []
        assert olga.get("/api/presets").json() == []
        olga.delete("/api/conversations").raise_for_status()
        assert len(ulf.get(path).json()["turns"]) == 1
        assert ulf.delete("/api/conversations").json() == {"deleted": 1}
        assert ulf.get("/api/conversations").json() == []
        assert len(ulf.get("/api/presets").json()) == 1
        olga.post("/api/servers/quick/stop").raise_for_status()
