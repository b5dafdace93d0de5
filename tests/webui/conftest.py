"""Two apps for all tests of this folder, one without and one with login: most tests only ask them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from deck_app import LOCAL_HTTP, DeckApp, Place
from people import OPERATOR, USER


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The folders; when the tests are over, nothing that was begun from them may be left."""
    found = Place(tmp_path_factory.mktemp("deck"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def app(place: Place) -> Iterator[DeckApp]:
    """Without login, with the models ``quick``, ``second``, ``slow`` (5 tokens a second), ``late`` (a start of 2 s),
    ``sleepy`` (sleep mode), ``broken`` (its start fails) and ``small`` (a context of 600 tokens)."""
    place.add_model("quick")
    place.add_model("second")
    place.add_model("slow", tokens_per_second=5, answer_tokens=500)
    place.add_model("late", ready_after=2)
    place.add_model("sleepy", "enable-sleep-mode: true\n")
    place.add_model("broken", exit_code=1)
    place.add_model("small", "max-model-len: 600\n")
    found = DeckApp(place).wait_until_up()
    yield found
    found.close()


@pytest.fixture
def stopped(app: DeckApp) -> Iterator[DeckApp]:
    """The app, with every server stopped before and after."""
    _stop_all(app)
    yield app
    _stop_all(app)


def _stop_all(app: DeckApp) -> None:
    for model in app.get("/api/models")["models"]:
        if model["status"]["state"] not in ("stopped", "failed") and not model["status"]["attached"]:
            app.post(f"/api/servers/{model['name']}/stop")


@pytest.fixture(scope="session")
def guarded_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    found = Place(tmp_path_factory.mktemp("guarded"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def users_file(guarded_place: Place) -> Path:
    path = guarded_place.home / "users"
    for (name, password), role in ((OPERATOR, "operator"), (USER, "user")):
        done = guarded_place.command("add-user", name, "--role", role, "--auth", str(path), stdin=f"{password}\n")
        assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def guarded(guarded_place: Place, users_file: Path) -> Iterator[DeckApp]:
    """The app with login."""
    guarded_place.add_model("quick")
    found = DeckApp(guarded_place, "--auth", str(users_file)).wait_until_up()
    yield found
    found.close()


@pytest.fixture
def browser(guarded: DeckApp) -> Iterator[httpx.Client]:
    """Nobody yet; keeps cookies."""
    with httpx.Client(base_url=guarded.url, timeout=60, **LOCAL_HTTP) as found:
        yield found
