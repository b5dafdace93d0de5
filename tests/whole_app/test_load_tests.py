"""Load tests and the end of the app."""

from __future__ import annotations

import signal

import pytest
from deck_app import DeckApp, Place, eventually

from whole_app.conftest import Run

pytestmark = pytest.mark.slow


def measuring(app: DeckApp, run_id: str) -> bool:
    progress = app.get(f"/api/load-tests/{run_id}")["rows"][0]["levels"][0]["progress"]
    return bool(progress) and progress["phase"] == "running"


def test_kill_9_leaves_no_generator_and_the_next_app_says_that_the_test_was_interrupted(place: Place, run: Run) -> None:
    app = run()
    settings = {"input_len": 8, "output_len": 400, "num_warmups": 0, "concurrency": [4]}
    begun = app.post("/api/load-tests", {"servers": ["slow"], "settings": settings}, status=202)
    eventually(lambda: measuring(app, begun["id"]), "requests are sent")
    assert any(" bench serve " in words for words in place.processes().values())
    app.end(with_signal=signal.SIGKILL)
    eventually(lambda: not place.processes(), "nothing is left of generator and server")

    app = run()
    found = app.get(f"/api/load-tests/{begun['id']}")
    assert (found["state"], found["rows"][0]["levels"][0]["state"]) == ("interrupted", "interrupted")
    again = app.post(f"/api/load-tests/{begun['id']}/repeat", status=202)
    eventually(lambda: measuring(app, again["id"]), "requests are sent again")
    assert app.end(with_signal=signal.SIGTERM) == 0
    assert not place.processes(), "the polite end waits for it"
