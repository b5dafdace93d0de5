"""“Show as code”: what is shown is run, and must make the same request as the chat itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from deck_app import LOCAL_HTTP, DeckApp, Place, text_of
from people import OPERATOR, USER

pytestmark = pytest.mark.slow

NASTY = "it's \"quoted\" \\n `touch pwned` $(touch pwned) $HOME !!\n你好，世界\nEND\n'; rm -rf x"
SAMPLING = {"temperature": 0.35, "top_p": 0.8, "repetition_penalty": 1.1, "max_tokens": 77, "top_k": 4, "seed": 7}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


TEMPLATE = "chat-template: '{% if enable_thinking %}{{ messages }}{% endif %}'\n"


@pytest.fixture
def echo(app: DeckApp) -> DeckApp:
    """With ``echo``, which answers with the request that it got and can think if asked; ``blunt`` and it can see."""
    weights = app.place.weights.with_name("seeing")
    weights.mkdir(exist_ok=True)
    (weights / "config.json").write_text(json.dumps({"vision_config": {"depth": 1}}))
    for name, fake in (("echo", {"echo": 1}), ("blunt", {"answer_tokens": 2})):
        app.place.add_model(name, f"max-model-len: 8192\n{TEMPLATE}", **fake)
        path = app.place.models_dir / f"{name}.yaml"
        path.write_text(path.read_text().replace(f"model: {app.place.weights}\n", f"model: {weights}\n"))
        app.start(name)
    return app


def question(conversation: str, text: str, **more: object) -> dict[str, Any]:
    body = {"conversation": conversation, "model": "echo", "text": text, "sampling": SAMPLING}
    return {**body, "system_prompt": "You are “it's me”.", **more}


def asked(app: DeckApp, body: dict[str, Any]) -> dict[str, Any]:
    """The request that the chat makes of a question."""
    frames = app.chat(**body)
    assert frames[-1]["type"] == "done", frames[-1]
    return without_streaming(json.loads(text_of(frames)))


def without_streaming(request: dict[str, Any]) -> dict[str, Any]:
    assert request.pop("stream") is True
    for field in ("stream_options", "stream_interval", "return_token_ids"):  # how the answer comes, not which
        request.pop(field, None)
    return request


def run(command: list[str], code: str, folder: Path, **env: str) -> str:
    path = os.environ["PATH"]
    done = subprocess.run(
        command, input=code, cwd=folder, env={"PATH": path, **env}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir()), "nothing of the text was run"
    return done.stdout


def asked_by_curl(code: str, folder: Path, **env: str) -> dict[str, Any]:
    events = [line[6:] for line in run(["bash"], code, folder, **env).splitlines() if line.startswith("data: ")]
    assert events, "curl got no stream"
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    return without_streaming(json.loads(text))


def asked_by_python(code: str, folder: Path, **env: str) -> dict[str, Any]:
    return without_streaming(json.loads(run([sys.executable, "-"], code, folder, **env)))


def test_code_asks_what_the_chat_asks(echo: DeckApp, tmp_path: Path) -> None:
    asked(echo, question("as-code-1", NASTY))
    follow_up = question("as-code-1", NASTY + " again", thinking=False)
    code = echo.post("/api/chat/code", follow_up)
    by_curl, by_python = asked_by_curl(code["curl"], tmp_path), asked_by_python(code["python"], tmp_path)
    by_chat = asked(echo, follow_up)  # last: it adds to the conversation
    assert [message["role"] for message in by_chat["messages"]] == ["system", "user", "assistant", "user"]
    assert {key: by_chat[key] for key in SAMPLING} == SAMPLING
    assert by_chat["chat_template_kwargs"] == {"enable_thinking": False}
    assert by_curl == by_chat
    assert by_python == by_chat

    turns = echo.get("/api/conversations/as-code-1")["turns"]
    code = echo.post("/api/chat/code", question("as-code-1", "", again=turns[-1]["id"], thinking=False))
    assert asked_by_curl(code["curl"], tmp_path) == by_chat
    assert echo.get("/api/conversations/as-code-1")["turns"] == turns, "nothing was added"


def test_code_fetches_the_images_that_are_kept(echo: DeckApp, tmp_path: Path) -> None:
    """And holds those that are only about to be sent."""
    picture = f"data:image/png;base64,{PIXEL}"
    first = question("as-code-6", "What is this?", images=[picture], model="blunt")  # its answer is not the image again
    assert echo.chat(**first)[-1]["type"] == "done"
    follow_up = question("as-code-6", NASTY)
    code = echo.post("/api/chat/code", follow_up)
    assert "base64,iVBOR" not in code["curl"] + code["python"]
    by_curl, by_python = asked_by_curl(code["curl"], tmp_path), asked_by_python(code["python"], tmp_path)
    assert by_curl == by_python == asked(echo, follow_up)
    assert picture in json.dumps(by_curl)

    new = question("as-code-7", "And this?", images=[picture])
    code = echo.post("/api/chat/code", new)
    assert asked_by_python(code["python"], tmp_path) == asked(echo, new)


def test_code_is_bounded_as_the_chat_is(app: DeckApp, tmp_path: Path) -> None:
    app.place.add_model("tight", "max-model-len: 600\n", echo=1)
    app.start("tight")
    body = {**question("as-code-2", "Hello"), "model": "tight", "sampling": {"max_tokens": 4000}}
    code = app.post("/api/chat/code", body)
    by_curl = asked_by_curl(code["curl"], tmp_path)
    assert by_curl == asked(app, body)
    assert 0 < by_curl["max_tokens"] < 600


def test_code_of_a_model_that_is_not_up_starts_nothing(stopped: DeckApp) -> None:
    body = {**question("as-code-3", "Hello"), "model": "quick"}
    code = stopped.post("/api/chat/code", body)
    assert '"model": "quick"' in code["curl"]
    assert code["serve"].startswith("vllm serve ")
    assert (code["serve_url"], code["serve_name"]) == ("http://localhost:8000/v1", "quick")
    assert stopped.server("quick")["state"] == "stopped"
    assert stopped.post("/api/chat/code", {**body, "model": "nobody"}, status=404)["error"]["code"] == "unknown_model"
    wrong = {**body, "sampling": {"temperature": 99}}
    assert stopped.post("/api/chat/code", wrong, status=422)["error"]["code"] == "invalid_model"


def test_with_login_the_key_comes_from_the_environment(
    guarded: DeckApp, guarded_place: Place, users_file: Path, tmp_path: Path
) -> None:
    guarded_place.add_model("echo", "max-model-len: 8192\n", echo=1)
    guarded.http.auth = OPERATOR
    try:
        guarded.start("echo")
        code = guarded.post("/api/chat/code", question("as-code-4", "Hello"))
    finally:
        guarded.http.auth = None
    assert code["with_key"] is True
    key = guarded_place.command("add-key", USER[0], "--auth", str(users_file)).stdout.split()[-1]
    assert asked_by_curl(code["curl"], tmp_path, DECK_API_KEY=key) == asked_by_python(
        code["python"], tmp_path, DECK_API_KEY=key
    )
    with httpx.Client(base_url=guarded.url, auth=USER, **LOCAL_HTTP) as client:
        shown = client.post("/api/chat/code", json=question("as-code-5", "Hello")).json()
        assert shown["serve"] is None, "flags are the operators' own"
        hidden = client.post("/api/chat/code", json=question("as-code-4", "Hello", parent="x"))
        assert hidden.status_code >= 400
