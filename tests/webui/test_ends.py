"""How servers end: the receipt of a stop, and what follows a crash."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from deck_app import DeckApp, eventually


@pytest.fixture(autouse=True)
def tidy(app: DeckApp) -> Iterator[None]:
    yield
    for path in app.place.models_dir.iterdir():
        if path.stem in ("frail", "own"):
            path.unlink()


@pytest.fixture
def frail(stopped: DeckApp) -> DeckApp:
    """The app with a model that is started again after a crash, once."""
    stopped.place.add_model("frail", crash_delay=0)
    with (stopped.place.models_dir / "frail.env").open("a", encoding="utf-8") as env:
        env.write("DECK_RESTARTS=1\n")
    return stopped


def crash(app: DeckApp, status: dict[str, Any]) -> None:
    os.kill(status["pid"], signal.SIGKILL)
    eventually(lambda: app.server(status["name"])["pid"] != status["pid"], "the crash is noticed")


def test_stop_gives_a_receipt(stopped: DeckApp) -> None:
    stopped.start("quick")
    eventually(lambda: rss_of(stopped, "quick"), "its memory is known")
    receipt = stopped.post("/api/servers/quick/stop")["exit"]["receipt"]
    assert receipt["where"] == "ram"
    assert receipt["freed_bytes"] == receipt["held_bytes"] > 10_000_000
    assert receipt["left"] == []


def rss_of(app: DeckApp, name: str) -> int | None:
    servers = {server["name"]: server for server in app.get("/api/snapshot")["servers"]}
    found: int | None = servers[name]["rss_bytes"]
    return found


def test_crashed_server_comes_back_and_then_is_given_up(frail: DeckApp) -> None:
    first = frail.start("frail")
    crash(frail, first)
    again = eventually(lambda: ready(frail), "it is up again")
    assert again["pid"] != first["pid"]
    assert (again["restart"]["attempt"], again["restart"]["limit"]) == (1, 1)
    assert frail.chat("frail")[-1]["type"] == "done"
    crash(frail, again)
    given_up = frail.wait_for("frail", "failed")
    assert given_up["exit"]["cause"] == "crashed"
    assert given_up["restart"]["at"] is None


def ready(app: DeckApp) -> dict[str, Any] | None:
    status = app.server("frail")
    return status if status["state"] == "ready" else None


def test_restart_that_is_waited_for_can_be_called_off(frail: DeckApp) -> None:
    crash(frail, frail.start("frail"))
    assert frail.server("frail")["restart"]["at"] is not None
    frail.post("/api/servers/frail/stop")
    time.sleep(1.5)  # the delay of the first attempt is 1 s
    status = frail.server("frail")
    assert (status["state"], status["restart"]) == ("failed", None)


def test_without_being_asked_for_nothing_is_started_again(stopped: DeckApp) -> None:
    crash(stopped, stopped.start("quick"))
    assert stopped.wait_for("quick", "failed")["restart"] is None


def test_restarts_are_ours_alone_and_can_be_set(stopped: DeckApp) -> None:
    """vLLM never hears of them, and saving the form keeps them."""
    stopped.place.add_model("own")
    form = {"model": str(stopped.place.weights), "restarts": 3}
    saved = stopped.put("/api/models/own", form)
    assert saved["fields"]["restarts"] == 3
    assert "DECK_RESTARTS" not in saved["command"]
    assert "DECK_RESTARTS='3'" in (stopped.place.models_dir / "own.env").read_text()
    pid = stopped.start("own")["pid"]
    with open(f"/proc/{pid}/environ", "rb") as environ:
        assert b"DECK_RESTARTS" not in environ.read()
    assert stopped.put("/api/models/own", {"model": str(stopped.place.weights)})["fields"]["restarts"] is None
    stopped.put("/api/models/own", {**form, "restarts": -1}, status=422)
