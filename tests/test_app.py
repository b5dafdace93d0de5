"""The app as a process: how it begins, what ends it, and what is left then."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from deck_app import FAKE_VLLM, DeckApp, Place, eventually, free_port

pytestmark = pytest.mark.slow

Run = Callable[..., DeckApp]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    found.add_model("quick")
    found.add_model("slow", tokens_per_second=5, answer_tokens=500)
    found.add_model("late", ready_after=60)
    yield found
    found.close()


@pytest.fixture
def run(place: Place) -> Iterator[Run]:
    """Starts the app and waits until it is up; ended after the test."""
    begun: list[DeckApp] = []

    def run(*arguments: str, start: bool = False, up: bool = True) -> DeckApp:
        found = DeckApp(place, *arguments, start=start)
        begun.append(found)
        return found.wait_until_up() if up else found

    yield run
    for app in begun:
        app.close()


def nothing_is_left(place: Place) -> bool:
    return not place.processes()


class OpenAnswer:
    """An answer that is being read, in a thread."""

    def __init__(self, app: DeckApp, model: str) -> None:
        self.lines: list[str] = []
        body = {"conversation": f"conversation-{id(self)}", "model": model, "text": "Hello"}

        def read() -> None:
            try:
                with (
                    httpx.Client(base_url=app.url, timeout=None, trust_env=False) as http,
                    http.stream("POST", "/api/chat", json=body) as response,
                ):
                    for line in response.iter_lines():
                        self.lines.append(line)
            except httpx.HTTPError:
                pass  # the app went away

        self._thread = threading.Thread(target=read)
        self._thread.start()
        eventually(lambda: self.lines, "the first words")

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


# Beginning


def test_says_where_it_is_and_nothing_else(run: Run) -> None:
    app = run()
    app.get("/")
    assert app.end() == 0
    assert app.process.stdout is not None
    assert app.process.stdout.read() == f"vLLM Deck is at {app.url}/\n"
    assert "Traceback" not in app.stderr
    assert "Warning" not in app.stderr


def test_starts_the_model_asked_for(run: Run) -> None:
    app = run("--start", "quick", start=True)
    assert app.wait_for("quick")["state"] == "ready"


def test_starts_the_model_used_last(run: Run) -> None:
    app = run()
    app.start("quick")
    app.close()
    assert run(start=True).wait_for("quick")["state"] == "ready"


def test_unknown_model_to_start_is_said_on_the_page_too(run: Run) -> None:
    app = run("--start", "nosuch", start=True)
    (problem,) = eventually(lambda: app.get("/api/snapshot")["problems"], "the problem")
    assert "There is no model 'nosuch'" in app.stderr
    assert "There is no model 'nosuch'" in problem
    assert "quick" in problem
    assert app.get("/")


def test_unreadable_model_file_is_said_and_the_others_are_there(place: Place, run: Run) -> None:
    (place.models_dir / "wrong.yaml").write_text("model: x\nmax-model-len: [\n")
    app = run()
    for path in ("/api/models", "/api/snapshot"):
        (problem,) = app.get(path)["problems"]
        assert "models/wrong.yaml line 3" in problem
    assert app.start("quick")["state"] == "ready"


def test_second_app_with_the_same_state_names_the_first(place: Place, run: Run) -> None:
    first = run()
    second = place.command("--port", str(free_port()), "--no-start")
    assert (second.returncode, second.stdout) == (1, "")
    assert f"{first.url}/" in second.stderr
    assert "--state-dir" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.get("/healthz")


def test_taken_port_is_said(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = place.command("--port", str(port), "--no-start")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} cannot be used: Address already in use" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--attach", "remote"), "NAME=URL"),
        (("--attach", "=http://127.0.0.1:1"), "name"),
        (("--attach", "a/b=http://127.0.0.1:1"), "name"),
        (("--attach", "remote=ftp://127.0.0.1"), "NAME=URL"),
        (("--attach", "remote=http://"), "NAME=URL"),
        (("--attach", "remote=http://127.0.0.1:99999"), "NAME=URL"),
        (("--port", "0"), "port"),
        (("--port", "http"), "port"),
        (("--start", "a", "--no-start"), "not allowed with"),
        (("logs", "quick", "--tail", "0"), "number from 1"),
        (("restart", "quick"), "invalid choice"),
    ],
)
def test_mistake_on_the_command_line_is_said(place: Place, arguments: tuple[str, ...], said: str) -> None:
    done = place.command(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_name_attached_twice_is_refused(place: Place) -> None:
    done = place.command("--attach", "a=http://127.0.0.1:1", "--attach", "a=http://127.0.0.1:2")
    assert done.returncode == 1
    assert "twice" in done.stderr


# The state folder


def test_state_folder_that_is_no_folder_is_said(place: Place) -> None:
    place.state_dir.write_text("")
    done = place.command("--no-start")
    assert done.returncode == 1
    assert str(place.state_dir) in done.stderr
    assert "--state-dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_state_folder_that_cannot_be_written_is_said(place: Place) -> None:
    """/proc takes no new folder, from root neither."""
    place.state_dir = Path("/proc/vllm-deck")
    done = place.command("--no-start")
    assert done.returncode == 1
    assert "/proc/vllm-deck" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_is_said_and_leaves_no_weak_key(place: Place, small_disk: Path) -> None:
    place.state_dir = small_disk / "state"
    place.state_dir.mkdir()
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(70_000))
    done = place.command("--no-start")
    assert done.returncode == 1
    assert str(place.state_dir) in done.stderr
    assert "Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place.state_dir / "session-key").exists()


def test_empty_key_is_made_anew(place: Place, run: Run) -> None:
    """Anybody could sign with it."""
    place.state_dir.mkdir()
    (place.state_dir / "lock").touch()
    (place.state_dir / "session-key").touch()
    run().close()
    assert len((place.state_dir / "session-key").read_bytes()) == 32


def test_folder_of_others_keeps_its_mode(place: Place, run: Run) -> None:
    """--state-dir /tmp, typed by root, must not close /tmp."""
    place.state_dir.mkdir()
    place.state_dir.chmod(0o755)
    (place.state_dir / "something").touch()
    app = run()
    assert place.state_dir.stat().st_mode & 0o777 == 0o755
    for path in place.state_dir.iterdir():
        assert path.name in ("something", "last-model") or path.stat().st_mode & 0o077 == 0
    app.close()


# Commands


def test_commands_talk_to_the_app(place: Place, run: Run) -> None:
    app = run()
    assert place.command("status").stdout == f"vLLM Deck: {app.url}/\n"
    started = place.command("start", "quick")
    assert (started.returncode, started.stdout) == (0, "quick: starting\n")
    app.wait_for("quick")
    assert "quick" in place.command("status").stdout
    assert "ready" in place.command("status").stdout
    logs = place.command("logs", "quick", "--tail", "3")
    assert logs.stdout == app.get("/api/servers/quick/logs?tail=3") or len(logs.stdout.splitlines()) == 3
    stopped = place.command("stop", "quick")
    assert (stopped.returncode, stopped.stdout) == (0, "quick: stopped\n")
    unknown = place.command("start", "nosuch")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "There is no model 'nosuch'" in unknown.stderr
    assert "quick" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_state_folder_may_stand_behind_the_command(place: Place, run: Run) -> None:
    app = run()
    done = subprocess.run(
        [sys.executable, "app.py", "status", "--state-dir", str(place.state_dir)],
        env=place.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert app.url in done.stdout


def test_commands_without_an_app_say_so(place: Place, run: Run) -> None:
    for command in (("status",), ("start", "quick"), ("stop", "quick"), ("logs", "quick")):
        done = place.command(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert str(place.state_dir) in done.stderr
        assert "Traceback" not in done.stderr


def test_commands_do_not_trust_what_a_killed_app_left(place: Place, run: Run) -> None:
    """Whoever listens on its port now must not be sent its token."""
    app = run()
    app.process.kill()
    app.process.wait()
    heard: list[bytes] = []
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", app.port))
        listener.listen()
        listener.settimeout(0.1)
        done = place.command("status")
        with contextlib.suppress(TimeoutError):
            heard.append(listener.accept()[0].recv(4096))
    assert done.returncode == 1
    assert not heard
    assert run().get("/healthz")  # and the next app begins all the same


# Ending


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_with_all_servers_whoever_is_connected(place: Place, run: Run, with_signal: int) -> None:
    app = run()
    app.start("quick")
    app.start("slow")
    app.post("/api/servers/late/start", status=202)
    eventually(lambda: app.server("late")["pid"], "a server that is starting")
    answer = OpenAnswer(app, "slow")
    # What Gradio's own client holds: a heartbeat, and the stream of an event.
    chat = next(event["id"] for event in app.get("/config")["dependencies"] if event["api_name"] == "chat")
    join = {"data": ["Hello", "slow", "", None, None, None, None], "fn_index": chat, "session_hash": "abcdef"}
    app.post("/gradio_api/queue/join", join)
    with (
        httpx.Client(base_url=app.url, timeout=None, trust_env=False) as page,
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
    app = run(up=False)
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


# Servers of others


@pytest.fixture
def other_server(place: Place) -> Iterator[str]:
    """The URL of a server that the app did not start."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(FAKE_VLLM), "serve", "some/model", "--port", str(port)],
        env=place.env | {"FAKE_VLLM_ENGINE": "0"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return httpx.get(f"{url}/health", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    eventually(up, "the other server")
    yield url
    process.kill()
    process.wait()


def test_attached_server_answers_and_is_left_alone(run: Run, other_server: str) -> None:
    app = run("--attach", f"remote={other_server}/v1")
    status = app.wait_for("remote")
    assert (status["attached"], status["served_model_name"]) == (True, "some/model")
    assert app.chat("remote")[-1]["type"] == "done"
    assert app.get("/api/models/remote")["attached"]
    app.post("/api/servers/remote/start", status=202)
    for method, path in (
        ("POST", "/api/servers/remote/stop"),
        ("POST", "/api/servers/remote/sleep"),
        ("POST", "/api/servers/remote/wake"),
        ("GET", "/api/servers/remote/logs"),
    ):
        response = app.http.request(method, path)
        assert response.status_code == 409, path
        assert "attached" in response.json()["error"]["message"]
    app.end()
    assert httpx.get(f"{other_server}/health", trust_env=False).is_success


def test_attached_server_that_is_away_is_shown_as_such(run: Run) -> None:
    app = run("--attach", f"remote=http://127.0.0.1:{free_port()}")
    status = app.wait_for("remote", "failed")
    assert status["exit"]["cause"] == "unreachable"
    error = json.loads(app.http.post(
        "/api/chat", json={"conversation": "conversation-1", "model": "remote", "text": "x"}
    ).text.splitlines()[-1])  # fmt: skip
    assert error["type"] == "error"
