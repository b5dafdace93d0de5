"""The model ladder from outside: a restart of the app in its middle, and the command line."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from deck_app import ROOT, DeckApp, Place, eventually

from whole_app.conftest import Run

pytestmark = pytest.mark.slow
SMALL = ("--input-len", "8", "--output-len", "4", "--num-prompts", "4", "--concurrency", "1,2")


def is_asked(app: DeckApp, run_id: str, row: int) -> bool:
    levels = app.get(f"/api/load-tests/{run_id}")["rows"][row]["levels"]
    return any(level["progress"] and level["progress"]["phase"] == "running" for level in levels)


def test_a_ladder_goes_on_after_kill_9_of_the_app(place: Place, run: Run) -> None:
    place.add_model("slow", tokens_per_second=100)
    app = run()
    settings = {"input_len": 8, "output_len": 150, "num_prompts": 2, "num_warmups": 0, "concurrency": [2]}
    begun = app.post("/api/load-tests", {"servers": ["quick", "slow"], "settings": settings}, status=202)
    path = f"/api/load-tests/{begun['id']}"
    eventually(lambda: is_asked(app, begun["id"], 1), "the second model is asked")
    first = app.get(path)["rows"][0]
    assert first["state"] == "done"
    app.end(with_signal=signal.SIGKILL)
    eventually(lambda: not place.processes(), "nothing is left of generator and server")

    app = run()
    assert app.get(path)["state"] in ("queued", "running")
    found = eventually(lambda: (now := app.get(path))["state"] == "done" and now, "it is done")
    assert found["rows"][0] == first, "what was done stays"
    assert found["rows"][1]["levels"][0]["metrics"]["completed"] == 4
    eventually(lambda: app.server("slow")["state"] == "stopped", "it is put away")
    assert app.get("/api/load-tests")["running"] is None


def test_bench_without_an_app(place: Place, tmp_path: Path) -> None:
    place.add_model("broken", exit_code=1)
    out = tmp_path / "results" / "ladder"
    ended = place.command("bench", "quick", "broken", "--out", str(out), *SMALL)
    assert ended.returncode == 1, ended.stderr
    assert "\x1b" not in ended.stdout + ended.stderr
    assert "quick at concurrency 2: " in ended.stdout
    assert "broken: FAILED: " in ended.stdout
    assert ended.stdout.splitlines()[-1] == "not measured: broken"
    assert not place.processes()
    found = json.loads((out / "run.json").read_text())
    assert [row["state"] for row in found["rows"]] == ["done", "failed"]
    assert len((out / "run.csv").read_text().splitlines()) == 1 + 4
    assert "## quick" in (out / "run.md").read_text()
    for name in ("run.png", "run-dark.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_bench_that_is_ended_leaves_nothing_running(place: Place, tmp_path: Path) -> None:
    argv = place.arguments("bench", "slow", "--out", str(tmp_path / "out"), "--output-len", "400", "--input-len", "8")
    child = subprocess.Popen(argv, cwd=ROOT, env=place.env, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert any(" requests" in line for line in child.stdout), "requests are sent"
        child.send_signal(signal.SIGTERM)
        rest = child.stdout.read()
    assert child.wait(timeout=30) == 143
    assert "stopping …" in rest
    assert not place.processes()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "stopped"


def test_bench_by_the_app_that_is_running(place: Place, run: Run, tmp_path: Path) -> None:
    app = run()
    app.start("quick")
    out = tmp_path / "out"
    ended = place.command("bench", "quick", "--out", str(out), "--name", "nightly", *SMALL)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (kept,) = app.get("/api/load-tests")["runs"]
    assert (kept["name"], kept["kind"], kept["state"]) == ("nightly", "ladder", "done")
    assert json.loads((out / "run.json").read_text())["id"] == kept["id"]
    assert (out / "run-dark.png").exists()
    assert app.server("quick")["state"] == "ready", "it was up before"

    argv = place.arguments("bench", "slow", "--out", str(out), "--output-len", "400", "--input-len", "8")
    child = subprocess.Popen(argv, cwd=ROOT, env=place.env, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert any(" requests" in line for line in child.stdout), "requests are sent"
        child.send_signal(signal.SIGINT)
        rest = child.stdout.read()
    assert (child.wait(timeout=30), "stopping …" in rest) == (130, True)
    assert app.get("/api/load-tests")["runs"][0]["state"] == "stopped"
    eventually(lambda: app.server("slow")["state"] == "stopped", "it is put away")
    assert not any(" bench serve " in words for words in place.processes().values())
