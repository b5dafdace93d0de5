"""The file of users: how it is made, what is wrong with it, and that sessions outlive the app."""

from __future__ import annotations

from pathlib import Path

import pytest
from deck_app import DeckApp, Place
from people import OPERATOR, log_in

from server_manager import SpecError
from webui import add_user, read_users
from webui.users import password_matches


def test_file_of_users_is_private_and_holds_no_password(users_file: Path) -> None:
    assert users_file.stat().st_mode & 0o077 == 0
    text = users_file.read_text()
    assert [line.split()[:2] for line in text.splitlines()] == [["olga", "operator"], ["ulf", "user"]]
    assert OPERATOR[1] not in text


@pytest.mark.slow
def test_session_outlives_the_app_but_not_the_password(tmp_path: Path) -> None:
    place = Place(tmp_path)
    path = tmp_path / "users"
    for name in ("olga", "ulf"):
        add_user(path, name, "user", "first password")
    try:
        app = DeckApp(place, "--auth", str(path)).wait_until_up()
        cookies = {}
        for name in ("olga", "ulf"):
            log_in(app.http, (name, "first password"))
            cookies[name] = {"Cookie": f"deck-session={app.http.cookies['deck-session']}"}
            app.http.cookies.clear()
        app.close()
        changed = place.command("add-user", "ulf", "--auth", str(path), stdin="second password\n")
        assert (changed.returncode, changed.stderr) == (0, "")
        app = DeckApp(place, "--auth", str(path)).wait_until_up()
        assert app.http.get("/api/me", headers=cookies["olga"]).json()["name"] == "olga"
        assert app.http.get("/api/me", headers=cookies["ulf"]).status_code == 401
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


@pytest.mark.slow
def test_users_change_while_the_app_goes_on(tmp_path: Path) -> None:
    """A new one gets in, one who is removed is out with the session, and a slip throws nobody out."""
    place, path = Place(tmp_path), tmp_path / "users"
    add_user(path, "olga", "operator", "a password")
    add_user(path, "ulf", "user", "a password")
    try:
        app = DeckApp(place, "--auth", str(path)).wait_until_up()
        log_in(app.http, ("ulf", "a password"))
        assert app.http.get("/api/me", auth=("ulf", "a password")).json()["role"] == "user"
        assert app.http.get("/api/me").status_code == 200

        before = path.read_text()
        path.write_text(before.replace("ulf user", "ulf operator"))
        assert app.http.get("/api/me").json()["role"] == "operator"
        path.write_text("olga operator\n")
        assert app.http.get("/api/me").status_code == 200, "a line that is no user: those of before stay"
        path.write_text("".join(line for line in before.splitlines(keepends=True) if "ulf" not in line))
        assert app.http.get("/api/me").status_code == 401
        assert app.http.get("/api/me", auth=("ulf", "a password")).status_code == 401
        add_user(path, "nina", "user", "a password")
        assert app.http.get("/api/me", auth=("nina", "a password")).json()["name"] == "nina"
        app.close()
        assert "is not “NAME ROLE HASH”" in app.stderr
    finally:
        place.close()
