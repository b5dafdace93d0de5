"""Who may do what: without login on this machine, with ``--auth``, and from other sites."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from deck_app import DeckApp, Place, eventually

from server_manager import SpecError
from webui import add_user, read_users
from webui.users import password_matches

OPERATOR = ("olga", "correct horse")
USER = ("ulf", "battery staple")
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="module")
def guarded_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    found = Place(tmp_path_factory.mktemp("guarded"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def users_file(guarded_place: Place) -> Path:
    path = guarded_place.home / "users"
    for (name, password), role in ((OPERATOR, "operator"), (USER, "user")):
        done = guarded_place.command("add-user", name, "--role", role, "--auth", str(path), stdin=f"{password}\n")
        assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def guarded(guarded_place: Place, users_file: Path) -> Iterator[DeckApp]:
    """The app with login."""
    guarded_place.add_model("quick")
    found = DeckApp(guarded_place, "--auth", str(users_file)).wait_until_up()
    yield found
    found.close()


@pytest.fixture
def browser(guarded: DeckApp) -> Iterator[httpx.Client]:
    """Nobody yet; keeps cookies."""
    with httpx.Client(base_url=guarded.url, timeout=60, trust_env=False) as found:
        yield found


def log_in(browser: httpx.Client, who: tuple[str, str], **headers: str) -> httpx.Response:
    return browser.post("/login", data={"name": who[0], "password": who[1]}, headers=headers)


def test_file_of_users_is_private_and_holds_no_password(users_file: Path) -> None:
    assert users_file.stat().st_mode & 0o077 == 0
    text = users_file.read_text()
    assert [line.split()[:2] for line in text.splitlines()] == [["olga", "operator"], ["ulf", "user"]]
    assert OPERATOR[1] not in text


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
        ("GET", "/api/servers/quick/logs", None),
        ("PUT", "/api/models/mine", form),
        ("POST", "/api/models/mine/preview", form),
        ("DELETE", "/api/models/quick", None),
        ("PUT", "/api/source", {"source": "default"}),
        ("POST", "/api/parse", {"command": "vllm serve x"}),
    ):
        response = browser.request(method, path, json=body)
        assert response.status_code == 403, path
        assert "operator" in response.json()["error"]["message"]


def test_user_may_chat_with_what_is_up_and_start_nothing(guarded: DeckApp, browser: httpx.Client) -> None:
    log_in(browser, USER)
    body = {"conversation": "of-ulf-12345", "model": "quick", "text": "Hello"}
    (error,) = browser.post("/api/chat", json=body).text.splitlines()
    assert "operator" in json.loads(error)["next_step"]
    with httpx.Client(base_url=guarded.url, timeout=60, trust_env=False, auth=OPERATOR) as operator:
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


# Other sites


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


# The app's life


@pytest.mark.slow
def test_session_outlives_the_app_but_not_the_password(tmp_path: Path) -> None:
    place = Place(tmp_path)
    path = tmp_path / "users"
    add = ("add-user", "ulf", "--auth", str(path))
    assert place.command(*add, stdin="first password\n").returncode == 0
    try:
        app = DeckApp(place, "--auth", str(path)).wait_until_up()
        log_in(app.http, ("ulf", "first password"))
        cookie = {"Cookie": f"deck-session={app.http.cookies['deck-session']}"}
        app.close()
        app = DeckApp(place, "--auth", str(path)).wait_until_up()
        assert app.http.get("/api/me", headers=cookie).status_code == 200
        app.close()
        assert place.command(*add, stdin="second password\n").returncode == 0
        app = DeckApp(place, "--auth", str(path)).wait_until_up()
        assert app.http.get("/api/me", headers=cookie).status_code == 401
        assert app.http.get("/api/me", auth=("ulf", "second password")).status_code == 200
        app.close()
    finally:
        place.close()


@pytest.mark.slow
def test_command_line_needs_no_password(guarded: DeckApp) -> None:
    """Whoever can read the state folder is the app's owner."""
    done = guarded.place.command("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert guarded.url in done.stdout


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_other_addresses_need_a_login(place: Place, host: str) -> None:
    done = place.command("--host", host)
    assert done.returncode == 1
    assert "--auth" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


BAD_FILES = [
    (b"olga operator\n", 1, "NAME ROLE HASH"),
    (b"# people\n\nolga boss scrypt:QUJD:QUJD\n", 3, "role user or operator"),
    (b"olga operator plain-password\n", 1, "NAME ROLE HASH"),
    (b"olga operator scrypt:x:y\n", 1, "NAME ROLE HASH"),
    (b"# nobody\n", None, "no users"),
    (b"\xff\xfe", None, "UTF-8"),
]


@pytest.mark.parametrize(("content", "line", "said"), BAD_FILES)
def test_bad_file_of_users_is_told_with_its_line(tmp_path: Path, content: bytes, line: int | None, said: str) -> None:
    path = tmp_path / "users"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_users(path)
    assert said in caught.value.message
    assert f"{path} line {line} " in caught.value.message if line else str(path) in caught.value.message
    assert caught.value.facts.get("line") == line
    assert "add-user" in caught.value.next_step


@pytest.mark.slow
def test_bad_file_of_users_ends_the_app_with_the_reason(guarded_place: Place, tmp_path: Path) -> None:
    place = Place(tmp_path)
    try:
        done = place.command("--auth", str(tmp_path / "nothing"))
    finally:
        place.close()
    assert (done.returncode, done.stdout) == (1, "")
    assert str(tmp_path / "nothing") in done.stderr
    assert "add-user" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["u l f", "ulf:x", "#ulf", "", "u\nf", "u\tf"])
def test_name_that_would_break_the_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="cannot be a user's name"):
        add_user(tmp_path / "users", name, "user", "long enough")
    assert not (tmp_path / "users").exists()


def test_later_line_counts_and_a_missing_line_end_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "users"
    add_user(path, "ulf", "user", "first password")
    path.write_text(path.read_text().rstrip("\n"))
    add_user(path, "ulf", "operator", "second password")
    role, hashed = read_users(path)["ulf"]
    assert role == "operator"
    assert password_matches("second password", hashed)
    assert not password_matches("first password", hashed)


@pytest.mark.slow
def test_user_that_cannot_be_added_is_said(tmp_path: Path) -> None:
    place = Place(tmp_path)
    try:
        short = place.command("add-user", "ulf", "--auth", str(tmp_path / "users"), stdin="short\n")
        nowhere = place.command("add-user", "ulf", "--auth", str(tmp_path / "no" / "users"), stdin="long enough\n")
    finally:
        place.close()
    assert (short.returncode, nowhere.returncode) == (1, 1)
    assert "shorter than 8" in short.stderr
    assert "No such file" in nowhere.stderr
    assert "Traceback" not in short.stderr + nowhere.stderr
