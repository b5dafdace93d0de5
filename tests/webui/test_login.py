"""The login itself, and what each role may do."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
from deck_app import LOCAL_HTTP, DeckApp, eventually
from people import OPERATOR, USER, log_in

HTML = {"Accept": "text/html"}


@pytest.mark.parametrize("path", ["/", "/docs", "/gradio_api/info"])
def test_person_without_session_gets_the_form(browser: httpx.Client, path: str) -> None:
    response = browser.get(path, headers=HTML)
    assert (response.status_code, response.headers["location"]) == (303, "/login")
    form = browser.get("/login", headers=HTML)
    assert form.status_code == 200
    assert 'action="/login"' in form.text
    assert "http://" not in form.text
    assert "https://" not in form.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/snapshot"),
        ("GET", "/api/models/quick"),
        ("POST", "/api/chat"),
        ("POST", "/api/servers/quick/start"),
        ("PUT", "/api/source"),
        ("GET", "/openapi.json"),
        ("GET", "/deck/main.js"),
        ("GET", "/config"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/queue/data?session_hash=x"),
        ("GET", "/gradio_api/heartbeat/x"),
        ("POST", "/gradio_api/queue/join"),
        ("POST", "/gradio_api/call/chat"),
        ("POST", "/gradio_api/upload"),
        ("GET", "/login/"),
        ("GET", "//healthz"),
    ],
)
def test_everything_needs_a_login(browser: httpx.Client, method: str, path: str) -> None:
    response = browser.request(method, path)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "login"


def test_health_needs_none(browser: httpx.Client) -> None:
    assert browser.get("/healthz").json() == {"status": "ok"}


def test_login_sets_a_cookie_that_scripts_cannot_read(browser: httpx.Client) -> None:
    response = log_in(browser, OPERATOR)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert browser.get("/api/me").json() == {"name": "olga", "role": "operator", "login": True}
    assert browser.get("/", headers=HTML).status_code == 200
    assert browser.get("/gradio_api/info").status_code == 200


@pytest.mark.parametrize(
    "form",
    [
        {"name": "olga", "password": "wrong horse"},
        {"name": "nobody", "password": "correct horse"},
        {"name": "nobody", "password": ""},
        {"name": "olga"},
        {},
    ],
)
def test_wrong_password_is_said_and_sets_nothing(browser: httpx.Client, form: dict[str, str]) -> None:
    response = browser.post("/login", data=form)
    assert response.status_code == 401
    assert "wrong" in response.text
    assert "set-cookie" not in response.headers
    assert browser.get("/api/me").status_code == 401


def test_endless_form_is_refused(browser: httpx.Client) -> None:
    assert browser.post("/login", content=b"name=" + b"x" * 10_000_000).status_code == 413


def test_logout_forgets_the_session(browser: httpx.Client) -> None:
    log_in(browser, USER)
    assert browser.get("/logout", headers=HTML).status_code == 200  # asks
    assert browser.get("/api/me").status_code == 200
    assert browser.post("/logout").headers["location"] == "/login"
    assert browser.get("/api/me").status_code == 401


@pytest.mark.parametrize("who", [OPERATOR, USER])
def test_scripts_use_basic(browser: httpx.Client, who: tuple[str, str]) -> None:
    for _ in range(2):  # the second time it is remembered
        assert browser.get("/api/me", auth=who).json()["name"] == who[0]
    assert browser.get("/api/me", auth=(who[0], "wrong")).status_code == 401
    assert browser.get("/api/me").status_code == 401


def test_browser_is_not_asked_by_a_window_of_its_own(browser: httpx.Client) -> None:
    assert browser.get("/api/me").headers["www-authenticate"].startswith("Basic")
    response = browser.get("/api/me", headers={"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/140"})
    assert response.status_code == 401
    assert "basic" not in response.headers["www-authenticate"].lower()


@pytest.mark.parametrize(
    "value",
    [
        b"Basic",
        b"Basic !!!",
        b"Basic \xe9\xe9",
        b"Basic " + base64.b64encode(b"\xff\xfe"),
        b"Basic " + base64.b64encode(b"olga"),
        b"Bearer",
        b"Bearer \xe9",
        b"Bearer wrong",
        b"Digest x",
    ],
)
def test_odd_credentials_are_401(browser: httpx.Client, value: bytes) -> None:
    assert browser.get("/api/me", headers={b"Authorization": value}).status_code == 401


def test_odd_cookies_are_401(browser: httpx.Client) -> None:
    log_in(browser, USER)
    good = str(browser.cookies["deck-session"])
    browser.cookies.clear()
    body, _, signature = good.rpartition(".")
    name, _, expires = body.partition(".")
    operator = base64.urlsafe_b64encode(b"olga").decode()
    for value in (
        "",
        ".",
        "..",
        "x",
        "garbage that is not base64.1.2",
        "\xe9\xe8.9999999999.x",
        f"{body}.{signature[:-1]}",
        f"{body}.{signature}0",
        f"{body}.",
        f"{name}.{signature}",
        f"{name}..{signature}",
        f"{name}.soon.{signature}",
        f"{name}.{int(expires) + 1}.{signature}",
        f"{operator}.{expires}.{signature}",
        f"{base64.urlsafe_b64encode(b'nobody').decode()}.{expires}.{signature}",
        "A" * 7000,
    ):
        headers = {b"Cookie": b"deck-session=" + value.encode("latin-1")}
        assert browser.get("/api/me", headers=headers).status_code == 401, value
    assert browser.get("/api/me", headers={"Cookie": f"deck-session={good}"}).status_code == 200


@pytest.mark.parametrize("other", ['a="{x', 'prefs={"a":1,"b":[2]}', "a/b,c{}=1", "expires=2", "$x=1", "=", "é=ü"])
def test_cookie_of_another_app_on_this_host_does_no_harm(browser: httpx.Client, other: str) -> None:
    log_in(browser, USER)
    good = browser.cookies["deck-session"]
    browser.cookies.clear()
    headers = {b"Cookie": f"{other}; deck-session={good}".encode()}
    assert browser.get("/api/me", headers=headers).status_code == 200


# Roles


def test_user_may_look_but_not_change(browser: httpx.Client) -> None:
    log_in(browser, USER)
    assert browser.get("/api/me").json()["role"] == "user"
    for path in ("/api/snapshot", "/api/models", "/api/models/quick", "/api/servers/quick", "/api/gpus"):
        assert browser.get(path).status_code == 200
    form = {"model": "x"}
    for method, path, body in (
        ("POST", "/api/servers/quick/start", None),
        ("POST", "/api/servers/quick/stop", None),
        ("POST", "/api/servers/quick/sleep", None),
        ("POST", "/api/servers/quick/wake", None),
        ("POST", "/api/servers/quick/smoke", None),
        ("GET", "/api/servers/quick/logs", None),
        ("GET", "/api/servers/quick/logs/download", None),
        ("GET", "/api/log", None),
        ("PUT", "/api/models/mine", form),
        ("POST", "/api/models/mine/preview", form),
        ("DELETE", "/api/models/quick", None),
        ("PUT", "/api/source", {"source": "default"}),
        ("POST", "/api/parse", {"command": "vllm serve x"}),
        ("GET", "/api/leftovers", None),
        ("POST", "/api/leftovers/scan", None),
        ("POST", "/api/leftovers/0123/reclaim", None),
    ):
        response = browser.request(method, path, json=body)
        assert response.status_code == 403, path
        assert "operator" in response.json()["error"]["message"]


def test_user_may_chat_with_what_is_up_and_start_nothing(guarded: DeckApp, browser: httpx.Client) -> None:
    log_in(browser, USER)
    body = {"conversation": "of-ulf-12345", "model": "quick", "text": "Hello"}
    (error,) = browser.post("/api/chat", json=body).text.splitlines()
    assert "operator" in json.loads(error)["next_step"]
    with httpx.Client(base_url=guarded.url, timeout=60, **LOCAL_HTTP, auth=OPERATOR) as operator:
        operator.post("/api/servers/quick/start").raise_for_status()
        try:
            eventually(lambda: operator.get("/api/servers/quick").json()["state"] == "ready", "the server")
            frames = [json.loads(line) for line in browser.post("/api/chat", json=body).text.splitlines()]
            assert frames[-1]["type"] == "done"
            # Flags, variables and paths are the operators' own.
            assert "vllm serve" in operator.get("/api/servers/quick").json()["command"]
            for path in ("/api/servers/quick", "/api/snapshot", "/api/models", "/api/models/quick"):
                assert "vllm serve" not in browser.get(path).text
                assert "--port" not in browser.get(path).text
            # What somebody has said is not for others, operators included.
            assert operator.get("/api/conversations/of-ulf-12345").status_code == 409
            assert operator.delete("/api/conversations/of-ulf-12345").status_code == 409
            (refused,) = operator.post("/api/chat", json=body).text.splitlines()
            assert json.loads(refused)["code"] == "not_allowed"
            assert len(browser.get("/api/conversations/of-ulf-12345").json()["turns"]) == 1
        finally:
            operator.post("/api/servers/quick/stop").raise_for_status()
