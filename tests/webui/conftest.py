"""One app for all tests of a module that only ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from deck_app import DeckApp, Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The folders; when the module's tests are over, nothing that was begun from them may be left."""
    found = Place(tmp_path_factory.mktemp("deck"))
    yield found
    found.close()


@pytest.fixture(scope="module")
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
