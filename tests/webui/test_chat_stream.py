"""``/api/chat``: the frames of an answer, and the conversation that it belongs to."""

from __future__ import annotations

import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from deck_app import LOCAL_HTTP, DeckApp, eventually, text_of


@pytest.fixture
def conversation() -> str:
    return uuid.uuid4().hex


def question(conversation: str, model: str, **more: Any) -> dict[str, Any]:
    return {"conversation": conversation, "model": model, "text": "Hello", **more}


def requests_in(app: DeckApp, model: str) -> int:
    """Requests that the server is answering, by its own word."""
    text = httpx.get(f"{app.server(model)['base_url']}/metrics", **LOCAL_HTTP).text
    found = re.search(r"^vllm:num_requests_running\{.*\} ([\d.]+)$", text, re.MULTILINE)
    assert found
    return int(float(found[1]))


def test_answer_comes_as_text_and_done(stopped: DeckApp, conversation: str) -> None:
    stopped.start("quick")
    frames = stopped.chat("quick", conversation=conversation)
    assert text_of(frames) == "".join(f"word{i} " for i in range(8))
    assert frames[0]["type"] == "turn"
    assert {frame["type"] for frame in frames[1:-1]} == {"text"}
    done = frames[-1]
    assert done["type"] == "done"
    assert (done["finish_reason"], done["completion_tokens"]) == ("stop", 8)
    assert done["prompt_tokens"] > 0
    assert done["first_token_s"] >= 0


def test_text_is_sent_while_it_is_made(stopped: DeckApp, conversation: str) -> None:
    """The first word long before the last (of 100 seconds), and the frames as lines of JSON."""
    stopped.start("slow")
    with stopped.http.stream("POST", "/api/chat", json=question(conversation, "slow")) as response:
        assert response.headers["content-type"].startswith("application/x-ndjson")
        lines = response.iter_lines()
        assert json.loads(next(lines))["type"] == "turn"
        assert [json.loads(next(lines))["content"] for _ in range(3)] == ["word0 ", "word1 ", "word2 "]


def test_start_is_shown_while_the_question_waits(stopped: DeckApp, conversation: str) -> None:
    frames = stopped.chat("late", conversation=conversation)
    kinds = [frame["type"] for frame in frames]
    assert kinds == sorted(kinds, key=["progress", "turn", "text", "done"].index)
    first = frames[0]
    assert first["type"] == "progress"
    assert first["status"]["state"] == "starting"
    assert first["status"]["phase"] is not None
    assert first["waited_s"] >= 0
    assert kinds[-1] == "done"


def test_failed_start_is_the_last_frame(stopped: DeckApp, conversation: str) -> None:
    frames = stopped.chat("broken", conversation=conversation)
    error = frames[-1]
    assert error["type"] == "error"
    assert error["message"]
    assert [frame["type"] for frame in frames[:-1]] == ["progress"] * (len(frames) - 1)
    found = stopped.get(f"/api/conversations/{conversation}")
    assert (found["turns"], found["busy"]) == ([], False)


def test_closed_connection_ends_the_request_in_vllm(stopped: DeckApp, conversation: str) -> None:
    stopped.start("slow")
    with stopped.http.stream("POST", "/api/chat", json=question(conversation, "slow")) as response:
        lines = response.iter_lines()  # kept: where it goes, the connection goes
        next(lines), next(lines)
        assert requests_in(stopped, "slow") == 1
    eventually(lambda: requests_in(stopped, "slow") == 0, "the end of the request in vLLM")
    found = eventually(
        lambda: (c := stopped.get(f"/api/conversations/{conversation}"))["turns"] and not c["busy"] and c,
        "the turn that was broken off",
    )
    (turn,) = found["turns"]
    assert turn["user"] == "Hello"
    assert turn["assistant"].startswith("word0 ")
    assert turn["note"] == "stopped"


def test_closed_connection_leaves_the_start_alone(stopped: DeckApp, conversation: str) -> None:
    """A start belongs to the server, not to the page that asked for it."""
    with stopped.http.stream("POST", "/api/chat", json=question(conversation, "late")) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["type"] == "progress"
    assert stopped.wait_for("late")["state"] == "ready"
    assert stopped.get(f"/api/conversations/{conversation}")["turns"] == []


def test_stop_in_the_middle_of_an_answer_is_said(stopped: DeckApp, conversation: str) -> None:
    stopped.place.add_model("impatient", "shutdown-timeout: 0\n", tokens_per_second=5, answer_tokens=500)
    stopped.start("impatient")
    with stopped.http.stream("POST", "/api/chat", json=question(conversation, "impatient")) as response:
        lines = response.iter_lines()
        next(lines), next(lines)
        stopped.post("/api/servers/impatient/stop")
        last = [json.loads(line) for line in lines][-1]
    assert last["type"] == "error"
    assert "stopped" in last["message"]
    (turn,) = stopped.get(f"/api/conversations/{conversation}")["turns"]
    assert turn["assistant"].startswith("word0 ")


def test_conversation_is_kept_and_sent_again(stopped: DeckApp, conversation: str) -> None:
    stopped.place.add_model("echo", echo=1)
    stopped.start("echo")
    stopped.chat("echo", "First", conversation=conversation, system_prompt="Be brief.")
    sampling = {"temperature": 0.5, "max_tokens": 900, "top_p": None}
    request = json.loads(text_of(stopped.chat("echo", "Second", conversation=conversation, sampling=sampling)))
    assert [message["role"] for message in request["messages"]] == ["user", "assistant", "user"]
    assert request["messages"][0]["content"] == "First"
    assert request["messages"][2]["content"] == "Second"
    assert (request["temperature"], request["max_tokens"]) == (0.5, 900)
    assert "top_p" not in request
    found = stopped.get(f"/api/conversations/{conversation}")
    assert [turn["user"] for turn in found["turns"]] == ["First", "Second"]
    first = json.loads(found["turns"][0]["assistant"])
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}
    # Edited: the turn is no part of its own question.
    request = json.loads(text_of(stopped.chat("echo", "Instead", conversation=conversation, parent=None)))
    assert [message["content"] for message in request["messages"]] == ["Instead"]
    turns = stopped.get(f"/api/conversations/{conversation}")["turns"]
    assert [turn["user"] for turn in turns] == ["Instead"]
    assert stopped.delete(f"/api/conversations/{conversation}") == {"deleted": conversation}
    assert stopped.get(f"/api/conversations/{conversation}")["turns"] == []


def test_one_conversation_is_answered_once_at_a_time(stopped: DeckApp, conversation: str) -> None:
    stopped.start("slow")
    with stopped.http.stream("POST", "/api/chat", json=question(conversation, "slow")) as response:
        lines = response.iter_lines()
        next(lines), next(lines)
        (error,) = stopped.chat("slow", conversation=conversation)
        assert (error["type"], error["code"]) == ("error", "not_allowed")
        assert stopped.delete(f"/api/conversations/{conversation}", 409)["error"]["code"] == "not_allowed"
        assert stopped.chat("slow", conversation=uuid.uuid4().hex, sampling={"max_tokens": 1})[-1]["type"] == "done"


def test_many_conversations_at_once(stopped: DeckApp) -> None:
    """Each gets its own answer, however they are mixed."""
    stopped.place.add_model("echo", echo=1)
    stopped.start("echo")
    with httpx.Client(base_url=stopped.url, timeout=60, **LOCAL_HTTP) as http:

        def ask(number: int) -> str:
            body = question(uuid.uuid4().hex, "echo", text=f"number {number}")
            frames = [json.loads(line) for line in http.post("/api/chat", json=body).text.splitlines()]
            assert frames[-1]["type"] == "done"
            return str(json.loads(text_of(frames))["messages"][-1]["content"])

        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(ask, range(64)))
    assert answers == [f"number {i}" for i in range(64)]


def test_conversation_too_long_for_the_model_is_said(stopped: DeckApp, conversation: str) -> None:
    stopped.start("small")
    frames = stopped.chat("small", "word " * 700, conversation=conversation)
    assert frames[-1]["code"] == "context_exceeded"
    assert "600" in frames[-1]["message"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"text": None}, 422),
        ({"text": "x" * 2_000_001}, 422),
        ({"system_prompt": "x" * 2_000_001}, 422),
        ({"sampling": {"temperature": "hot"}}, 422),
        ({"sampling": []}, 422),
        ({"parent": 5}, 422),
        ({"model": 3}, 422),
    ],
)
def test_wrong_question_is_422(app: DeckApp, conversation: str, change: dict[str, Any], status: int) -> None:
    response = app.http.post("/api/chat", json=question(conversation, "quick") | change)
    assert response.status_code == status
    assert next(iter(change)) in response.json()["error"]["message"]
    assert app.server("quick")["state"] == "stopped"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model": "nosuch"}, "unknown_model"),
        ({"conversation": "short"}, "not_allowed"),
        ({"conversation": "../../etc/passwd"}, "not_allowed"),
    ],
)
def test_impossible_question_is_an_error_frame(
    app: DeckApp, conversation: str, change: dict[str, Any], code: str
) -> None:
    response = app.http.post("/api/chat", json=question(conversation, "quick") | change)
    (error,) = [json.loads(line) for line in response.text.splitlines()]
    assert (error["type"], error["code"]) == ("error", code)
    assert error["message"]


def test_sampling_that_is_no_number_is_refused(stopped: DeckApp, conversation: str) -> None:
    stopped.start("quick")
    body = json.dumps(question(conversation, "quick")).replace('"Hello"', '"Hello", "sampling": {"temperature": NaN}')
    response = stopped.http.post("/api/chat", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422


def test_conversation_of_another_form_is_refused(app: DeckApp) -> None:
    assert app.get("/api/conversations/short", 409)["error"]["code"] == "not_allowed"


def test_conversation_that_nobody_began_is_empty(app: DeckApp, conversation: str) -> None:
    found = app.get(f"/api/conversations/{conversation}")
    assert (found["id"], found["title"], found["busy"], found["turns"]) == (conversation, "", False, [])
