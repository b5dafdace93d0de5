"""``/api/servers`` and the other routes that look at what is up."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from deck_app import LOCAL_HTTP, DeckApp, eventually

ALL_GETS = (
    "/healthz",
    "/api/snapshot",
    "/api/history",
    "/api/gpus",
    "/api/me",
    "/api/models",
    "/api/models/quick",
    "/api/source",
    "/api/servers/quick",
    "/api/servers/quick/logs",
    "/api/conversations",
    "/api/conversations/conversation-1",
    "/api/presets",
    "/openapi.json",
    "/docs",
    "/",
)


@pytest.mark.parametrize("path", ALL_GETS)
def test_every_get_answers(app: DeckApp, path: str) -> None:
    app.get(path)


def test_start_ready_log_stop(stopped: DeckApp) -> None:
    app = stopped
    begun = app.post("/api/servers/quick/start", status=202)
    assert begun["state"] == "starting"
    assert begun["exit"] is None
    ready = app.wait_for("quick")
    assert ready["served_model_name"] == "quick"
    assert ready["max_model_len"] == 2048
    assert ready["base_url"] == f"http://127.0.0.1:{ready['port']}"
    assert ready["pid"] in app.place.processes()
    log = app.get("/api/servers/quick/logs")
    assert "Application startup complete." in log
    assert len(app.get("/api/servers/quick/logs?tail=2").splitlines()) == 2
    ended = app.post("/api/servers/quick/stop")
    assert (ended["state"], ended["stopped"], ended["exit"]["cause"]) == ("stopped", True, "stopped")
    assert 0 < ended["exit"]["seconds"] < 30
    assert list(app.place.processes()) == [app.process.pid]
    assert app.get("/api/servers/quick/logs").startswith(log)  # it can still be read
    again = app.post("/api/servers/quick/stop")
    assert (again["state"], again["stopped"]) == ("stopped", False)


def test_second_start_joins_the_first(stopped: DeckApp) -> None:
    stopped.post("/api/servers/late/start", status=202)
    stopped.post("/api/servers/late/start", status=202)
    pid = stopped.wait_for("late")["pid"]
    assert stopped.post("/api/servers/late/start", status=202)["pid"] == pid


def test_start_that_leaves_another_server_stops_it(stopped: DeckApp) -> None:
    first = stopped.start("quick")
    stopped.post("/api/servers/second/start", {"leaving": "quick"}, status=202)
    second = stopped.wait_for("second")
    assert stopped.server("quick")["state"] == "stopped"
    assert first["pid"] not in stopped.place.processes()
    assert second["pid"] in stopped.place.processes()
    # And keeps it where nothing is to be left, or what is to be left is not up.
    stopped.start("quick")
    stopped.post("/api/servers/second/start", {"leaving": "late"}, status=202)
    assert {stopped.server(name)["state"] for name in ("quick", "second")} == {"ready"}


def test_start_that_leaves_an_unknown_server_does_nothing(stopped: DeckApp) -> None:
    error = stopped.post("/api/servers/quick/start", {"leaving": "nosuch"}, status=404)["error"]
    assert error["code"] == "unknown_model"
    assert stopped.server("quick")["state"] == "stopped"


def test_stop_during_a_start_ends_it(stopped: DeckApp) -> None:
    stopped.post("/api/servers/late/start", status=202)
    eventually(lambda: stopped.server("late")["pid"], "the process")
    ended = stopped.post("/api/servers/late/stop")
    assert ended["state"] == "stopped"
    assert list(stopped.place.processes()) == [stopped.process.pid]


def test_failed_start_says_why_and_can_be_tried_again(stopped: DeckApp) -> None:
    stopped.post("/api/servers/broken/start", status=202)
    failed = stopped.wait_for("broken", "failed")
    assert failed["exit"]["cause"] == "failed_to_start"
    assert failed["exit"]["returncode"] == 1
    assert "vLLM ended before it served" in failed["exit"]["message"]
    assert "log_tail" not in failed["exit"]
    assert "Traceback" in stopped.get("/api/servers/broken/logs")
    (stopped.place.models_dir / "broken.env").rename(stopped.place.models_dir / "broken.aside")
    try:
        assert stopped.start("broken")["exit"] is None
    finally:
        (stopped.place.models_dir / "broken.aside").rename(stopped.place.models_dir / "broken.env")


def test_missing_folder_of_a_model_is_said_at_once(stopped: DeckApp) -> None:
    path = stopped.place.models_dir / "gone.yaml"
    path.write_text("model: /no/such/folder\n")
    try:
        stopped.post("/api/servers/gone/start", status=202)
        message = stopped.wait_for("gone", "failed")["exit"]["message"]
    finally:
        path.unlink()
    assert "/no/such/folder" in message


def test_deleted_model_is_unknown(stopped: DeckApp) -> None:
    path = stopped.place.models_dir / "brief.yaml"
    path.write_text(f"model: {stopped.place.weights}\n")
    assert stopped.server("brief")["state"] == "stopped"
    path.unlink()
    stopped.get("/api/servers/brief", 404)
    stopped.post("/api/servers/brief/start", status=404)


def test_server_whose_file_is_deleted_can_still_be_stopped(stopped: DeckApp) -> None:
    path = stopped.place.models_dir / "brief.yaml"
    path.write_text(f"model: {stopped.place.weights}\n")
    stopped.start("brief")
    path.unlink()
    assert "brief" in [server["name"] for server in stopped.get("/api/snapshot")["servers"]]
    assert "sampling" in stopped.get("/api/models/brief")
    assert stopped.post("/api/servers/brief/stop")["state"] == "stopped"


def test_broken_file_is_told_where_its_server_is_asked_for(app: DeckApp) -> None:
    path = app.place.models_dir / "wrong.yaml"
    path.write_text("model: x\ndtype: true\n")
    try:
        for error in (
            app.get("/api/servers/wrong", 422)["error"],
            app.get("/api/models/wrong", 422)["error"],
            app.post("/api/servers/wrong/start", status=422)["error"],
        ):
            assert (error["key"], error["line"], error["path"]) == ("dtype", 2, str(path))
    finally:
        path.unlink()


def test_sleep_and_wake(stopped: DeckApp) -> None:
    stopped.start("sleepy")
    assert stopped.post("/api/servers/sleepy/sleep")["state"] == "asleep"
    assert stopped.post("/api/servers/sleepy/sleep")["state"] == "asleep"
    assert stopped.post("/api/servers/sleepy/wake")["state"] == "ready"
    assert stopped.post("/api/servers/sleepy/sleep?level=1")["state"] == "asleep"
    # A chat wakes it.
    assert stopped.chat("sleepy")[-1]["type"] == "done"
    assert stopped.server("sleepy")["state"] == "ready"
    # And it can be stopped while it sleeps.
    stopped.post("/api/servers/sleepy/sleep")
    assert stopped.post("/api/servers/sleepy/stop")["state"] == "stopped"


def test_sleep_is_refused_with_the_reason(stopped: DeckApp) -> None:
    for action in ("sleep", "wake"):
        error = stopped.post(f"/api/servers/sleepy/{action}", status=409)["error"]
        assert error["code"] == "not_allowed"
        assert "start" in error["next_step"].lower()
    stopped.start("quick")
    error = stopped.post("/api/servers/quick/sleep", status=409)["error"]
    assert "enable-sleep-mode" in error["next_step"]
    assert stopped.server("quick")["state"] == "ready"
    stopped.post("/api/servers/quick/sleep?level=3", status=422)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/servers/quick/start", b'{"leaving": 3}'),
        ("/api/servers/quick/start", b"{"),
        ("/api/servers/quick/start", b'"text"'),
    ],
)
def test_wrong_body_is_422(stopped: DeckApp, path: str, body: bytes) -> None:
    response = stopped.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error"]["message"]
    assert stopped.server("quick")["state"] == "stopped"


@pytest.mark.parametrize("tail", ["0", "-1", "x", "20001", "1e3"])
def test_wrong_number_of_lines_is_422(app: DeckApp, tail: str) -> None:
    assert "tail" in app.get(f"/api/servers/quick/logs?tail={tail}", 422)["error"]["message"]


def test_unknown_route_is_404_as_json(app: DeckApp) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        response = app.http.request(method, "/api/nothing/here")
        assert response.status_code == 404
        assert "/docs" in response.json()["error"]["next_step"]


def test_get_changes_nothing(stopped: DeckApp) -> None:
    """Every route that is not a GET, tried as one."""
    routes = stopped.get("/openapi.json")["paths"]
    others = [path for path, methods in routes.items() if set(methods) - {"get"} and "get" not in methods]
    assert len(others) >= 7
    for path in others:
        stopped.get(path.replace("{name}", "quick"), 404)
    assert stopped.server("quick")["state"] == "stopped"


def test_secrets_are_nowhere_to_be_seen(stopped: DeckApp) -> None:
    token, key = "hf_secretsecretsecret123", "sk-verysecretkey456"
    body = {"model": str(stopped.place.weights), "env": {"HF_TOKEN": token}, "other_flags": f"--api-key {key}"}
    stopped.put("/api/models/secretive", body)
    try:
        pid = stopped.start("secretive")["pid"]
        shown = "".join(json.dumps(stopped.get(path.replace("quick", "secretive"))) for path in ALL_GETS)
        for other in stopped.place.processes():
            shown += Path(f"/proc/{other}/cmdline").read_text()
        shown += stopped.place.log_of("secretive") + stopped.stderr
        for path in (stopped.place.state_dir / "servers").glob("*"):
            assert path.stat().st_mode & 0o077 == 0
        assert token not in shown
        assert key not in shown
        # The server has both all the same: nobody else can ask it, and the app can.
        environment = Path(f"/proc/{pid}/environ").read_text()
        assert f"HF_TOKEN={token}" in environment
        url = stopped.server("secretive")["base_url"]
        assert httpx.get(f"{url}/v1/models", **LOCAL_HTTP).status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, **LOCAL_HTTP).is_success
        assert stopped.chat("secretive")[-1]["type"] == "done"
    finally:
        stopped.delete("/api/models/secretive")


def test_random_key_guards_a_server_without_one(stopped: DeckApp) -> None:
    url = stopped.start("quick")["base_url"]
    assert httpx.get(f"{url}/v1/models", **LOCAL_HTTP).status_code == 401


def test_state_folder_is_private(app: DeckApp) -> None:
    assert app.place.state_dir.stat().st_mode & 0o077 == 0
    for path in app.place.state_dir.iterdir():
        if path.name in ("session-key", "app.json", "lock"):
            assert path.stat().st_mode & 0o077 == 0


# The snapshot


def test_snapshot_has_what_the_page_draws(stopped: DeckApp) -> None:
    stopped.start("quick")

    def measured() -> dict[str, object] | None:
        snapshot = stopped.get("/api/snapshot")
        server = next(found for found in snapshot["servers"] if found["name"] == "quick")
        return snapshot if server["rss_bytes"] and server["metrics"] else None

    snapshot = eventually(measured, "the figures of a server")
    assert snapshot["host"]["memory_total_bytes"] > 0
    assert snapshot["default_model"] in [server["name"] for server in snapshot["servers"]]
    assert snapshot["phases"]
    assert snapshot["problems"] == []
    history = stopped.get("/api/history")
    assert [sample["time"] for sample in history] == sorted(sample["time"] for sample in history)
    assert stopped.get(f"/api/history?since={history[-1]['time'] + 3600}") == []


def test_snapshot_is_made_at_most_twice_a_second(app: DeckApp) -> None:
    times = []
    while not times or times[-1] - times[0] < 2:
        times.append(app.get("/api/snapshot")["time"])
    assert len(set(times)) <= 2 * (times[-1] - times[0]) + 1
    assert len(times) > len(set(times))


def test_hundred_pages_ask_at_once(app: DeckApp) -> None:
    gate = threading.Barrier(100)

    def ask(_: int) -> dict[str, object]:
        with httpx.Client(base_url=app.url, timeout=60, **LOCAL_HTTP) as http:
            gate.wait()
            return dict(http.get("/api/snapshot").raise_for_status().json())

    with ThreadPoolExecutor(100) as pool:
        documents = list(pool.map(ask, range(100)))
    assert all(document["servers"] for document in documents)
    span = max(float(str(d["time"])) for d in documents) - min(float(str(d["time"])) for d in documents)
    assert len({document["time"] for document in documents}) <= 2 * span + 1


def test_many_requests_of_many_kinds_at_once_see_one_server(stopped: DeckApp) -> None:
    """The state of a server must not be lost where a look and a start meet."""

    def ask(number: int) -> int:
        with httpx.Client(base_url=stopped.url, timeout=60, **LOCAL_HTTP) as http:
            if number % 10 == 5:
                return http.post("/api/servers/second/start").status_code
            return http.get(("/api/servers/second", "/api/models/second", "/api/models")[number % 3]).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(80))) <= {200, 202}
    pid = stopped.wait_for("second")["pid"]
    servers = [line for line in stopped.place.processes().values() if "--served-model-name second" in line]
    assert pid in stopped.place.processes()
    assert len(servers) == 2  # the server and its EngineCore


def test_server_that_starts_cannot_be_put_to_sleep(stopped: DeckApp) -> None:
    stopped.place.add_model("tired", "enable-sleep-mode: true\n", ready_after=30)
    stopped.post("/api/servers/tired/start", status=202)
    error = stopped.post("/api/servers/tired/sleep", status=409)["error"]
    assert "not ready" in error["message"]
    stopped.post("/api/servers/tired/stop")
