"""``/v1`` of the whole app, with the clients that people use."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from deck_app import LOCAL_HTTP, DeckApp, Place, eventually
from people import OPERATOR, USER

WORDS = "".join(f"word{i} " for i in range(8))
HELLO: Any = [{"role": "user", "content": "Hello"}]


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, **more}


def requests_in(app: DeckApp, model: str) -> int:
    """Requests that the server is answering, by its own word."""
    text = httpx.get(f"{app.server(model)['base_url']}/metrics", **LOCAL_HTTP).text
    found = re.search(r"^vllm:num_requests_running\{.*\} ([\d.]+)$", text, re.MULTILINE)
    assert found
    return int(float(found[1]))


def direct(app: DeckApp, model: str) -> httpx.Client:
    """The server itself, with the key that only the app knows."""
    record = json.loads((app.place.state_dir / "servers" / f"{model}.json").read_text())
    headers = {"Authorization": f"Bearer {record['api_key']}"}
    return httpx.Client(base_url=app.server(model)["base_url"], headers=headers, **LOCAL_HTTP, timeout=30)


@pytest.fixture
def client(app: DeckApp) -> Iterator[openai.OpenAI]:
    with httpx.Client(**LOCAL_HTTP) as http_client:
        yield openai.OpenAI(base_url=f"{app.url}/v1", api_key="any", max_retries=0, http_client=http_client)


def test_models_with_their_states(stopped: DeckApp, client: openai.OpenAI) -> None:
    stopped.start("small")
    found = {model.id: model.to_dict() for model in client.models.list()}
    assert next(iter(found)) == "small", "what is up comes first"
    assert (found["small"]["state"], found["small"]["max_model_len"]) == ("ready", 600)
    assert found["quick"]["state"] in ("stopped", "failed")
    assert {"Qwen2-7B-Instruct", "sleepy"} <= set(found)
    assert client.models.retrieve("Qwen2-7B-Instruct").id == "Qwen2-7B-Instruct"
    assert client.models.retrieve("Qwen/Qwen2-7B-Instruct").object == "model"
    with pytest.raises(openai.NotFoundError, match="There is no model 'nope'"):
        client.models.retrieve("nope")


def test_openai_client_starts_the_model_and_is_answered(stopped: DeckApp, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="quick", messages=HELLO)
    assert answer.choices[0].message.content == WORDS
    assert stopped.server("quick")["state"] == "ready"
    stream = client.chat.completions.create(model="quick", messages=HELLO, stream=True)
    pieces = [chunk.choices[0].delta.content for chunk in stream]
    assert "".join(filter(None, pieces)) == WORDS
    assert len(pieces) > 8
    assert client.completions.create(model="quick", prompt="Hello").choices[0].text == WORDS
    assert client.embeddings.create(model="quick", input=["a", "b"]).data[1].embedding[0] == pytest.approx(0.1)
    with pytest.raises(openai.NotFoundError, match="There is no model 'nope'"):
        client.chat.completions.create(model="nope", messages=HELLO)


def test_anthropic_client(stopped: DeckApp) -> None:
    with httpx2.Client(**LOCAL_HTTP) as http_client:
        client = anthropic.Anthropic(base_url=stopped.url, api_key="any", max_retries=0, http_client=http_client)
        message = client.messages.create(model="quick", max_tokens=100, messages=HELLO)
        assert message.content[0].to_dict()["text"] == WORDS
        with client.messages.stream(model="quick", max_tokens=3, messages=HELLO) as stream:
            assert "".join(stream.text_stream) == "word0 word1 word2 "
        assert client.messages.count_tokens(model="quick", messages=HELLO).input_tokens > 0
        with pytest.raises(anthropic.NotFoundError, match="There is no model"):
            client.messages.create(model="nope", max_tokens=100, messages=HELLO)


def test_answers_are_the_servers_own(stopped: DeckApp) -> None:
    """Status and bytes, of errors too; a file in a form, and what vLLM has outside of /v1."""
    stopped.start("quick")
    form = {"model": (None, "quick"), "file": ("a.wav", os.urandom(100_000), "audio/wav")}
    with direct(stopped, "quick") as server:
        for path, how in (
            ("/v1/chat/completions", {"json": chat("quick", max_tokens=99_999)}),
            ("/v1/chat/completions", {"json": chat("quick", messages=[{"role": "user", "content": "x " * 3000}])}),
            ("/v1/messages", {"json": chat("quick", max_tokens=99_999)}),
            ("/v1/no/such/route", {"json": chat("quick")}),
            ("/v1/audio/transcriptions", {"files": form}),
            ("/tokenize", {"json": {"model": "quick", "prompt": "a b c"}}),
        ):
            ours, theirs = stopped.http.post(path, **how), server.post(path, **how)
            assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content), path
            assert ours.headers["content-type"] == theirs.headers["content-type"]


def test_catalogue_name_is_not_what_the_server_must_read(stopped: DeckApp) -> None:
    path = stopped.place.models_dir / "nick.yaml"
    path.write_text(f"model: {stopped.place.weights}\nserved-model-name: [proper, alias]\n")
    for asked, answered in (("nick", "proper"), ("alias", "alias"), ("proper", "proper")):
        response = stopped.http.post("/v1/chat/completions", json=chat(asked))
        assert (response.status_code, response.json()["model"]) == (200, answered)
    assert stopped.http.post("/v1/audio/transcriptions", files={
        "file": ("a.wav", b"RIFF", "audio/wav"), "model": (None, "nick"),
    }).json()["text"] == "4 bytes"  # fmt: skip
    path.unlink()


def test_client_that_leaves_ends_the_request_in_vllm(stopped: DeckApp, client: openai.OpenAI) -> None:
    stopped.start("slow")
    stream = client.chat.completions.create(model="slow", messages=HELLO, stream=True)
    next(iter(stream))
    assert requests_in(stopped, "slow") == 1
    stream.close()
    eventually(lambda: requests_in(stopped, "slow") == 0, "the end of the request in vLLM")
    with pytest.raises(httpx.ReadTimeout):  # an answer that is no stream, too
        stopped.http.post("/v1/chat/completions", json=chat("slow"), timeout=0.5)
    eventually(lambda: requests_in(stopped, "slow") == 0, "the end of the request in vLLM")


def test_stream_is_told_of_the_start(stopped: DeckApp, client: openai.OpenAI) -> None:
    stopped.place.add_model("later", ready_after=6)
    with stopped.http.stream("POST", "/v1/chat/completions", json=chat("later", stream=True)) as response:
        assert response.status_code == 200
        lines = [line for line in response.iter_lines() if line]
    assert re.fullmatch(r": starting later \(.+\), \d+ s", lines[0])
    assert lines[-1] == "data: [DONE]"
    stopped.post("/api/servers/later/stop")
    stream = client.chat.completions.create(model="later", messages=HELLO, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == WORDS


def test_start_that_fails_is_told(stopped: DeckApp, client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="broken did not start") as found:
            client.chat.completions.create(model="broken", messages=HELLO, stream=stream)
        assert found.value.status_code == 503
    stopped.place.add_model("hopeless", ready_after=5, exit_code=1)
    told = client.chat.completions.create(model="hopeless", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="hopeless did not start"):
        list(told)


def test_server_that_dies_in_the_middle_does_not_look_whole(stopped: DeckApp, client: openai.OpenAI) -> None:
    pid = stopped.start("slow")["pid"]
    stream = iter(client.chat.completions.create(model="slow", messages=HELLO, stream=True))
    next(stream)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="broke off"):
        list(stream)
    stopped.wait_for("slow", "failed")
    pid = stopped.start("slow")["pid"]
    with stopped.http.stream("POST", "/v1/chat/completions", json=chat("slow", stream=True)) as response:
        lines = response.iter_lines()
        next(lines)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    assert "broke off" in (stopped.place.state_dir / "app.log").read_text()
    assert "Traceback" not in stopped.stderr


def test_stop_in_the_middle_is_told(stopped: DeckApp, client: openai.OpenAI) -> None:
    stopped.place.add_model("impatient", "shutdown-timeout: 0\n", tokens_per_second=5, answer_tokens=500)
    stopped.start("impatient")
    stream = iter(client.chat.completions.create(model="impatient", messages=HELLO, stream=True))
    next(stream)
    stopped.post("/api/servers/impatient/stop")
    with pytest.raises(openai.APIError, match=r"stopped in the middle|broke off"):
        list(stream)


def test_sleeping_server_is_woken(stopped: DeckApp, client: openai.OpenAI) -> None:
    stopped.place.add_model("sleeper", "enable-sleep-mode: true\n")
    (stopped.place.models_dir / "sleeper.env").write_text("VLLM_SERVER_DEV_MODE=1\n")
    stopped.start("sleeper")
    stopped.post("/api/servers/sleeper/sleep")
    assert next(m for m in client.models.list() if m.id == "sleeper").to_dict()["state"] == "asleep"
    assert client.chat.completions.create(model="sleeper", messages=HELLO).choices[0].message.content == WORDS
    # The routes that do so stay ours.
    with direct(stopped, "sleeper") as server:
        assert server.get("/is_sleeping").json() == {"is_sleeping": False}
        for path in (
            "/sleep", "/v1/sleep", "/v1/../sleep", "/v1/x/../../sleep", "/v1/%2e%2e/sleep", "/v1/..%2fsleep", "//sleep",
            "/v1//sleep", "/v1/chat/..%2f..%2fsleep", "/tokenize/../sleep", "/v1/..;/sleep", "/V1/../sleep",
        ):  # fmt: skip
            connection = http.client.HTTPConnection("127.0.0.1", stopped.port, timeout=30)
            connection.request("POST", path, b'{"model":"sleeper"}', {"Content-Type": "application/json"})
            assert connection.getresponse().status in (404, 405), path
            connection.close()
        assert server.get("/is_sleeping").json() == {"is_sleeping": False}


def test_large_requests(stopped: DeckApp) -> None:
    stopped.start("quick")
    body = json.dumps(chat("quick", messages=[{"role": "user", "content": "x" * 15_000_000}])).encode()
    headers = {"Content-Type": "application/json"}
    assert stopped.http.post("/v1/chat/completions", content=body, headers=headers).status_code == 200
    connection = http.client.HTTPConnection("127.0.0.1", stopped.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", headers={"Content-Length": str(65 * 2**20)})
    response = connection.getresponse()
    assert response.status == 413
    assert "64 MiB" in json.loads(response.read())["error"]["message"]
    connection.close()


def test_websocket_is_refused(app: DeckApp) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    assert app.http.get("/v1/realtime?model=quick", headers=headers).status_code == 403


def test_other_site_may_not_ask(app: DeckApp) -> None:
    response = app.http.post("/v1/chat/completions", json=chat("quick"), headers={"Origin": "http://evil.example"})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "other_origin")
    assert app.server("quick")["state"] == "stopped" or "access-control-allow-origin" not in response.headers


def test_documentation_tells_of_it(app: DeckApp) -> None:
    assert "/v1/chat/completions" in app.get("/openapi.json")["info"]["description"]


# Keys


def key_of(place: Place, users_file: Path, name: str) -> str:
    done = place.command("add-key", name, "--auth", str(users_file))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_keys_open_the_gateway_and_rest(guarded: DeckApp, guarded_place: Place, users_file: Path) -> None:
    def ask(path: str, **headers: str) -> httpx.Response:
        return httpx.get(guarded.url + path, headers=headers, **LOCAL_HTTP, timeout=30)

    for path, kind in (("/v1/models", "authentication_error"), ("/v1/messages", "authentication_error")):
        response = ask(path, Accept="text/html")
        assert response.status_code == 401
        assert response.json()["error"]["type"] == kind
    assert ask("/v1/models", Authorization="Bearer sk-deck-" + "0" * 64).json()["error"]["code"] == "invalid_api_key"
    key = key_of(guarded_place, users_file, OPERATOR[0])  # the app is running
    for headers in ({"Authorization": f"Bearer {key}"}, {"x-api-key": key}):
        assert ask("/v1/models", **headers).status_code == 200
        assert ask("/api/me", **headers).json()["name"] == OPERATOR[0]
    assert ask(f"/v1/models?api_key={key}").status_code == 401
    foreign = httpx.post(
        f"{guarded.url}/v1/chat/completions", json=chat("quick"), **LOCAL_HTTP,
        headers={"Authorization": f"Bearer {key}", "Origin": "http://evil.example"},
    )  # fmt: skip
    assert foreign.status_code == 403
    listed = guarded_place.command("list-keys", "--auth", str(users_file)).stdout
    assert f"{key[:16]}…  {OPERATOR[0]}" in listed
    assert key not in listed
    revoked = guarded_place.command("revoke-key", key[8:16], "--auth", str(users_file))
    assert revoked.returncode == 0, revoked.stderr
    assert ask("/v1/models", Authorization=f"Bearer {key}").status_code == 401
    assert guarded_place.command("revoke-key", "00000000", "--auth", str(users_file)).returncode == 1
    assert guarded_place.command("add-key", "nobody", "--auth", str(users_file)).returncode == 1
    texts = [path.read_bytes() for path in guarded_place.state_dir.rglob("*") if path.is_file()]
    assert not [text for text in texts if key[20:].encode() in text]


def test_key_has_its_users_role(guarded: DeckApp, guarded_place: Place, users_file: Path) -> None:
    keys = {name: key_of(guarded_place, users_file, name) for name, _ in (OPERATOR, USER)}
    clients = {
        name: openai.OpenAI(
            base_url=f"{guarded.url}/v1", api_key=key, max_retries=0, http_client=httpx.Client(**LOCAL_HTTP)
        )
        for name, key in keys.items()
    }
    of_ulf, of_olga = clients[USER[0]], clients[OPERATOR[0]]
    with pytest.raises(openai.PermissionDeniedError, match="Ask an operator"):
        of_ulf.chat.completions.create(model="quick", messages=HELLO)
    roots = {model.id: model.to_dict()["root"] for model in of_ulf.models.list()}
    assert roots["quick"] == "quick", "paths of the machine are for operators"
    try:
        assert of_olga.chat.completions.create(model="quick", messages=HELLO).choices[0].message.content == WORDS
        assert of_ulf.chat.completions.create(model="quick", messages=HELLO).choices[0].message.content == WORDS
    finally:
        stop = f"{guarded.url}/api/servers/quick/stop"
        assert httpx.post(stop, headers={"x-api-key": keys[USER[0]]}, **LOCAL_HTTP).status_code == 403
        headers = {"Authorization": f"Bearer {keys[OPERATOR[0]]}"}
        assert httpx.post(stop, headers=headers, **LOCAL_HTTP, timeout=30).status_code == 200
        for found in clients.values():
            found.close()
