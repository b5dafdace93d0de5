"""Servers that somebody else runs (``--attach``)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from deck_app import FAKE_VLLM, LOCAL_HTTP, Place, eventually, free_port

from whole_app.conftest import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def other_server(place: Place) -> Iterator[str]:
    """The URL of a server that the app did not start."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(FAKE_VLLM), "serve", "some/model", "--port", str(port)],
        env=place.env | {"FAKE_VLLM_ENGINE": "0"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return httpx.get(f"{url}/health", **LOCAL_HTTP).is_success
        except httpx.HTTPError:
            return False

    eventually(up, "the other server")
    yield url
    process.kill()
    process.wait()


def test_attached_server_answers_and_is_left_alone(run: Run, other_server: str) -> None:
    app = run("--attach", f"remote={other_server}/v1")
    status = app.wait_for("remote")
    assert (status["attached"], status["served_model_name"]) == (True, "some/model")
    assert app.chat("remote")[-1]["type"] == "done"
    assert app.get("/api/models/remote")["attached"]
    for model in ("remote", "some/model"):
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        answer = app.http.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["model"]) == (200, "some/model")
    app.post("/api/servers/remote/start", status=202)
    for method, path in (
        ("POST", "/api/servers/remote/stop"),
        ("POST", "/api/servers/remote/sleep"),
        ("POST", "/api/servers/remote/wake"),
        ("GET", "/api/servers/remote/logs"),
    ):
        response = app.http.request(method, path)
        assert response.status_code == 409, path
        assert "attached" in response.json()["error"]["message"]
    app.end()
    assert httpx.get(f"{other_server}/health", **LOCAL_HTTP).is_success


def test_attached_server_that_is_away_is_shown_as_such(run: Run) -> None:
    app = run("--attach", f"remote=http://127.0.0.1:{free_port()}")
    status = app.wait_for("remote", "failed")
    assert status["exit"]["cause"] == "unreachable"
    error = json.loads(app.http.post(
        "/api/chat", json={"conversation": "conversation-1", "model": "remote", "text": "x"}
    ).text.splitlines()[-1])  # fmt: skip
    assert error["type"] == "error"
    response = app.http.post("/v1/completions", json={"model": "remote", "prompt": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (502, "server_unreachable")
