"""Load tests by HTTP."""

from __future__ import annotations

import csv
import io
from typing import Any

import httpx
import pytest
from deck_app import DeckApp, eventually
from people import USER

SMALL = {"input_len": 8, "output_len": 4, "num_prompts": 4, "concurrency": [1, 2]}


def finished(app: DeckApp, run_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        run: dict[str, Any] = app.get(f"/api/load-tests/{run_id}")
        return run if run["state"] not in ("queued", "running") else None

    return eventually(look, "the load test is over")


def test_a_test_from_the_form_to_the_files(stopped: DeckApp) -> None:
    app = stopped
    begun = app.post("/api/load-tests", {"servers": ["quick"], "settings": SMALL, "name": "First"}, status=202)
    assert (begun["name"], begun["kind"], begun["rows"][0]["model"]) == ("First", "test", "quick")
    run = finished(app, begun["id"])
    assert run["state"] == "done", run
    assert run["rows"][0]["levels"][1]["metrics"]["completed"] == 4
    assert run["revision"] > begun["revision"]
    path = f"/api/load-tests/{run['id']}"

    answer = app.http.get(path)
    assert app.http.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    renamed = app.http.patch(path, json={"name": "Second"}).json()
    assert renamed["name"] == "Second"
    assert app.http.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 200

    again = finished(app, app.post(f"{path}/repeat", status=202)["id"])
    compared = app.get(f"/api/load-tests/compare?ids={run['id']},{again['id']}")
    assert [level["label"] for level in compared["levels"]] == ["1", "2"]
    assert compared["levels"][0]["differences_percent"]["p99_ttft_ms"][0] == 0
    listed = app.get("/api/load-tests")
    assert [found["name"] for found in listed["runs"]] == ["Second", "Second"]
    assert (listed["running"], listed["runs"][0]["levels_done"]) == (None, 2)

    for form, begins in (("json", b'{\n  "format"'), ("md", b"# Second"), ("csv", b"run,model"), ("png", b"\x89PNG")):
        file = app.http.get(f"{path}/export?format={form}")
        assert file.content.startswith(begins), form
        assert f'.{form}"' in file.headers["content-disposition"]
    assert len(list(csv.reader(io.StringIO(app.get(f"{path}/export?format=csv"))))) == 3

    for found in (run, again):
        app.delete(f"/api/load-tests/{found['id']}")
    assert app.get("/api/load-tests")["runs"] == []
    assert app.get(path, status=404)["error"]["code"] == "unknown_load_test"


def test_stop_by_http(stopped: DeckApp) -> None:
    body = {"servers": ["slow"], "settings": {**SMALL, "num_warmups": 0, "output_len": 400}}
    run = stopped.post("/api/load-tests", body, status=202)
    path = f"/api/load-tests/{run['id']}"
    eventually(lambda: stopped.get(path)["rows"][0]["levels"][0]["progress"], "the generator is there")
    assert stopped.delete(path, status=409)["error"]["code"] == "not_allowed"
    assert stopped.post(f"{path}/stop")["state"] == "stopped"
    assert not [words for words in stopped.place.processes().values() if " bench serve " in words]
    stopped.delete(path)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"servers": ["nobody"]}, 404, None),
        ({"servers": []}, 422, "servers"),
        ({"servers": ["quick"], "settings": {"output_len": -1}}, 422, "output_len"),
        ({"servers": ["quick"], "settings": {"dataset": "sharegpt", "dataset_path": ""}}, 422, "dataset_path"),
        (
            {"servers": ["quick"], "settings": {"dataset": "custom", "dataset_path": "/no/such.jsonl"}},
            422,
            "dataset_path",
        ),
        ({"servers": ["small"], "settings": {"input_len": 600}}, 422, "input_len"),
        ({"servers": ["quick", "second"], "settings": {"sla": {"ttft_p99_ms": 5}}}, 422, "sla"),
    ],
)
def test_what_cannot_work_is_told_with_its_field(
    app: DeckApp, body: dict[str, Any], status: int, field: str | None
) -> None:
    error = app.post("/api/load-tests", body, status=status)["error"]
    assert error.get("key") == field
    assert error["next_step"]


def test_presets_are_there_and_unknown_ids_are_not(app: DeckApp) -> None:
    assert app.get("/api/load-tests/presets")["tutorial"]["output_len"] == 16
    for path in ("/api/load-tests/20260101-000000-abcdef", "/api/load-tests/..%2f..%2fetc", "/api/load-tests/x/export"):
        assert app.http.get(path).status_code == 404
    assert app.get("/api/load-tests/compare?ids=", status=422)["error"]["key"] == "ids"


def test_they_are_for_operators(browser: httpx.Client) -> None:
    browser.auth = USER
    assert browser.get("/api/load-tests").status_code == 403
    assert browser.post("/api/load-tests", json={"servers": ["quick"]}).status_code == 403
