"""A start seen from outside: its phases, and at the second time how long it still takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from deck_app import DeckApp, Place, eventually
from processes import VLLM_LOGS

pytestmark = pytest.mark.slow
GPU_PHASES = [
    "loading Python modules",
    "reading the configuration",
    "starting vLLM's processes",
    "loading weights",
    "compiling",
    "reserving the KV cache",
    "capturing CUDA graphs",
    "opening the port",
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeckApp]:
    """With ``gpu``, whose log is that of a cold start on an H100, and ``broken``."""
    folder = tmp_path_factory.mktemp("deck")
    place = Place(folder)
    recorded = (VLLM_LOGS / "ok_gpu_cold_0.25.1.log").read_bytes().splitlines(keepends=True)
    end = next(index for index, line in enumerate(recorded) if b"Starting vLLM server on" in line)
    # Each line takes equally long, and most are of the bars of the CUDA graphs.
    lines = [line for line in recorded[: end + 1] if b"Capturing" not in line or b"51/51" in line]
    (folder / "start.log").write_bytes(b"".join(lines))
    place.add_model("gpu", replay=folder / "start.log", ready_after=7)
    place.add_model("broken", ready_after=1, exit_code=1)
    found = DeckApp(place).wait_until_up()
    yield found
    found.close()
    place.close()


def test_second_start_knows_how_long_it_takes(app: DeckApp) -> None:
    first = app.place.command("start", "gpu", "--wait")
    assert first.returncode == 0
    begun, *phases, last = first.stdout.splitlines()
    assert begun == "gpu: starting"
    assert not [line for line in phases if "left" in line], "nothing is known yet"
    named = [next(phase for phase in ["preparing", *GPU_PHASES] if line.startswith(phase)) for line in phases]
    assert named == [phase for phase in ["preparing", *GPU_PHASES] if phase in named], "in order, each once"
    assert len(named) >= 3, "it looks twice a second: a phase that is shorter may be missed"
    assert re.fullmatch(r"ready after \d+ s: http://127\.0\.0\.1:\d+", last)
    assert app.server("gpu")["progress"]["fraction"] == 1.0
    app.post("/api/servers/gpu/stop")

    app.post("/api/servers/gpu/start", status=202)
    seen = []

    def ready() -> bool:
        status = app.server("gpu")
        if status["state"] == "starting" and status["progress"]:
            seen.append(status["progress"])
        return bool(status["state"] == "ready")

    eventually(lambda: bool(app.server("gpu")["progress"]), "the process")
    shown = app.place.command("status").stdout
    assert re.search(r"gpu +starting +\w.*, (about \d+ s left|longer than usual)", shown)
    eventually(ready, "the second start")
    assert {progress["basis"] for progress in seen} == {"same"}
    assert any(progress["eta_s"] is not None for progress in seen)
    fractions = [progress["fraction"] for progress in seen]
    assert fractions == sorted(fractions)
    assert all(0 <= fraction < 1 for fraction in fractions)
    after = app.server("gpu")["progress"]
    assert after["last_total_s"] > 0
    history = json.loads((app.place.state_dir / "start-history.json").read_text())
    assert [len(entry["runs"]) for entry in history["starts"]] == [2]


def test_waiting_for_a_start_that_fails_says_why(app: DeckApp) -> None:
    done = app.place.command("start", "broken", "--wait")
    assert done.returncode == 1
    assert done.stdout.startswith("broken: starting\n")
    assert "vLLM ended before it served." in done.stderr
    assert "Traceback" not in done.stderr
