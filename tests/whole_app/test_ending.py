"""What ends the app, and what is left then."""

from __future__ import annotations

import os
import signal
import threading

import httpx
import pytest
from deck_app import LOCAL_HTTP, DeckApp, Place, eventually

from whole_app.conftest import Run

pytestmark = pytest.mark.slow


def nothing_is_left(place: Place) -> bool:
    return not place.processes()


class OpenAnswer:
    """An answer that is being read, in a thread."""

    def __init__(self, app: DeckApp, model: str) -> None:
        self.lines: list[str] = []
        self.conversation = f"conversation-{id(self)}"
        body = {"conversation": self.conversation, "model": model, "text": "Hello"}

        def read() -> None:
            try:
                with (
                    httpx.Client(base_url=app.url, timeout=None, **LOCAL_HTTP) as http,
                    http.stream("POST", "/api/chat", json=body) as response,
                ):
                    for line in response.iter_lines():
                        self.lines.append(line)
            except httpx.HTTPError:
                pass  # the app went away

        self._thread = threading.Thread(target=read)
        self._thread.start()
        eventually(lambda: '"text"' in "".join(self.lines), "the first words")

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


# Everything ends


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_all_servers_whoever_is_connected(place: Place, run: Run, with_signal: int) -> None:
    app = run(forked=False)
    app.start("quick")
    app.start("slow")
    app.post("/api/servers/late/start", status=202)
    eventually(lambda: app.server("late")["pid"], "a server that is starting")
    answer = OpenAnswer(app, "slow")
    # What Gradio's own client holds: a heartbeat, and the stream of an event.
    chat = next(event["id"] for event in app.get("/config")["dependencies"] if event["api_name"] == "chat")
    join = {"data": ["Hello", "slow", "", None, None, None, None, None], "fn_index": chat, "session_hash": "abcdef"}
    app.post("/gradio_api/queue/join", join)
    with (
        httpx.Client(base_url=app.url, timeout=None, **LOCAL_HTTP) as page,
        page.stream("GET", "/gradio_api/heartbeat/abcdef") as heartbeat,
        page.stream("GET", "/gradio_api/queue/data?session_hash=abcdef") as events,
    ):
        assert (heartbeat.status_code, events.status_code) == (200, 200)
        lines = events.iter_lines()
        eventually(lambda: "word0" in next(lines), "the first words of the event")
        assert app.end(with_signal, within=30) == {signal.SIGTERM: 0, signal.SIGINT: 130}[with_signal]
    answer.join()
    assert place.processes() == {}
    assert not (place.state_dir / "app.json").exists()
    assert list((place.state_dir / "servers").iterdir()) == []
    # An open page is nothing unusual: no word of it.
    assert "Traceback" not in app.stderr
    assert "ERROR" not in app.stderr


def test_impatient_second_signal_leaves_nothing_either(place: Place, run: Run) -> None:
    app = run()
    app.start("slow")
    answer = OpenAnswer(app, "slow")
    app.process.send_signal(signal.SIGINT)
    app.process.send_signal(signal.SIGINT)
    app.process.wait(timeout=30)
    answer.join()
    eventually(lambda: nothing_is_left(place), "the end of every server", 15)


def test_signal_while_it_begins_ends_it(place: Place, run: Run) -> None:
    app = run(up=False, forked=False)
    eventually((place.state_dir / "app.json").exists, "the app's address")
    app.end()
    assert place.processes() == {}


def test_killed_app_takes_its_servers_along(place: Place, run: Run) -> None:
    app = run()
    app.start("quick")
    app.post("/api/servers/late/start", status=202)
    eventually(lambda: app.server("late")["pid"], "a server that is starting")
    app.process.kill()
    app.process.wait()
    eventually(lambda: nothing_is_left(place), "the end of every server", 10)
    assert run().server("quick")["state"] == "stopped"


# Servers that outlive the app


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_kept_server_is_adopted_by_the_next_app(place: Place, run: Run, with_signal: int) -> None:
    app = run("--keep-servers")
    before = app.start("quick")
    app.chat("quick")
    app.end(with_signal)
    assert before["pid"] in place.processes()
    app = run("--keep-servers")
    after = app.wait_for("quick")
    assert (after["pid"], after["port"]) == (before["pid"], before["port"])
    assert after["kept"]
    assert app.chat("quick")[-1]["type"] == "done"
    log = app.get("/api/servers/quick/logs?tail=1000")
    assert log.count("POST /v1/chat/completions") == 2
    assert app.post("/api/servers/quick/stop")["state"] == "stopped"
    assert list(place.processes()) == [app.process.pid]


def test_kept_server_ends_with_an_app_that_does_not_keep(place: Place, run: Run) -> None:
    app = run("--keep-servers")
    pid = app.start("quick")["pid"]
    app.end()
    app = run()
    assert app.wait_for("quick")["pid"] == pid
    app.end()
    assert place.processes() == {}


def test_kept_server_that_died_meanwhile_is_not_adopted(place: Place, run: Run) -> None:
    app = run("--keep-servers")
    app.start("quick")
    app.end()
    for pid in place.processes():
        os.kill(pid, signal.SIGKILL)
    app = run("--keep-servers")
    assert app.server("quick")["state"] == "stopped"
    assert app.start("quick")["state"] == "ready"
    app.post("/api/servers/quick/stop")
