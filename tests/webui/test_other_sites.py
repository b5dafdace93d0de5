"""What other sites, and names of this machine that are none, can do: nothing."""

from __future__ import annotations

import httpx
import pytest
from deck_app import DeckApp, Place
from people import OPERATOR, log_in


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_change_nothing(app: DeckApp, browser: httpx.Client, headers: dict[str, str]) -> None:
    log_in(browser, OPERATOR)
    for http in (app.http, browser):
        for method, path in (
            ("POST", "/api/servers/quick/start"),
            ("PUT", "/api/source"),
            ("DELETE", "/api/models/quick"),
            ("POST", "/api/chat"),
            ("PATCH", "/api/conversations/conversation-1"),
            ("DELETE", "/api/conversations"),
            ("POST", "/gradio_api/queue/join"),
            ("POST", "/login"),
            ("POST", "/logout"),
        ):
            response = http.request(method, path, headers=headers, json={})
            assert response.status_code == 403, path
            assert response.json()["error"]["code"] == "other_origin"
    assert app.server("quick")["state"] == "stopped"


def test_own_page_and_scripts_may(app: DeckApp) -> None:
    for headers in (
        {},
        {"Origin": app.url},
        {"Origin": app.url, "Sec-Fetch-Site": "same-origin"},
        # Behind a proxy that changes Host, only the browser itself can tell.
        {"Origin": "https://deck.example", "Sec-Fetch-Site": "same-origin"},
    ):
        assert app.http.put("/api/source", json={"source": "default"}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "", "[", "a b"]
)
def test_wrong_host_is_refused_without_login(app: DeckApp, host: str) -> None:
    """A name of an attacker's that leads to this machine (DNS rebinding)."""
    for path in ("/", "/api/snapshot", "/healthz"):
        response = app.http.get(path, headers={"Host": host})
        assert response.status_code in (400, 403)
        assert response.status_code == 400 or response.json()["error"]["code"] == "wrong_host"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "LOCALHOST", "127.0.0.1", "127.0.0.5:1", "[::1]:7860", "[::1]"]
)
def test_names_of_this_machine_are_right(app: DeckApp, host: str) -> None:
    assert app.http.get("/api/me", headers={"Host": host}).status_code == 200


def test_everybody_on_this_machine_is_an_operator_without_login(app: DeckApp) -> None:
    assert app.get("/api/me") == {"name": "local", "role": "operator", "login": False}
    for path in ("/login", "/logout"):
        assert app.http.get(path).headers.get("location", "/") == "/"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_other_addresses_need_a_login(place: Place, host: str) -> None:
    done = place.command("--host", host)
    assert done.returncode == 1
    assert "--auth" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
