"""A failed server over REST: its diagnosis, what each correction changes, and starting it again corrected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from deck_app import DeckApp, Place
from processes import VLLM_LOGS

pytestmark = pytest.mark.slow


@pytest.fixture
def fail(app: DeckApp, place: Place) -> Iterator[Any]:
    """Makes a model whose start fails with a recorded log, starts it, and returns its status."""

    def fail(name: str, log: str, flags: str = "", code: int = 1) -> dict[str, Any]:
        place.add_model(name, flags, replay=VLLM_LOGS / f"{log}.log", exit_code=code)
        app.post(f"/api/servers/{name}/start", status=202)
        return app.wait_for(name, "failed")

    return fail


def mend(place: Place, name: str) -> None:
    """From now on the fake vLLM starts, as the real one does once the flags are right."""
    path = place.models_dir / f"{name}.env"
    kept = [line for line in path.read_text().splitlines() if not line.startswith("FAKE_VLLM_")]
    path.write_text("".join(f"{line}\n" for line in kept))


def fix_of(status: dict[str, Any], label: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [fix for fix in status["exit"]["diagnosis"]["fixes"] if fix["label"] == label]
    assert found, status["exit"]["diagnosis"]
    return found[0]


def test_retry_with_a_shorter_context(app: DeckApp, place: Place, fail: Any) -> None:
    status = fail("long", "err_gpu_kv_small", "max-model-len: 32768\n")
    found = status["exit"]["diagnosis"]
    assert found["cause"] == "kv_cache_too_small"
    assert "0.38 GiB" in found["title"]
    assert found["evidence"].startswith("ValueError: To serve at least one request")
    assert found["translations"]["zh-CN"]["title"].startswith("KV 缓存放不下一个 32768 token 的请求")
    fix = fix_of(status, "Start with --max-model-len 1664")
    assert (fix["removed"], fix["added"]) == (["--max-model-len 32768"], ["--max-model-len 1664"])
    mend(place, "long")
    app.post("/api/servers/long/retry", {"fix": fix["id"]}, status=202)
    assert "--max-model-len 1664" in app.wait_for("long")["command"]
    assert yaml.safe_load((place.models_dir / "long.yaml").read_text())["max-model-len"] == 1664
    assert app.server("long")["exit"] is None


def test_retry_with_a_token_that_is_never_shown_again(app: DeckApp, place: Place, fail: Any) -> None:
    status = fail("gated", "made/hub_gated")
    fix = fix_of(status, "Start with your HF_TOKEN")
    assert (fix["asks"], fix["added"]) == ("HF_TOKEN", ['HF_TOKEN="$HF_TOKEN"'])
    app.post("/api/servers/gated/retry", {"fix": fix["id"]}, status=422)  # without it
    mend(place, "gated")
    answer = app.post("/api/servers/gated/retry", {"fix": fix["id"], "value": "hf_verysecret"}, status=202)
    app.wait_for("gated")
    env = place.models_dir / "gated.env"
    assert "HF_TOKEN='hf_verysecret'" in env.read_text()
    assert env.stat().st_mode & 0o777 == 0o600
    shown = [answer, app.server("gated"), app.get("/api/models/gated"), app.get("/api/snapshot")]
    assert "hf_verysecret" not in str(shown)


def test_only_what_was_offered_can_be_tried(app: DeckApp, fail: Any) -> None:
    fail("offered", "err_tp4", "tensor-parallel-size: 4\n")
    app.post("/api/servers/offered/retry", {"fix": "trust-remote-code"}, status=409)
    app.post("/api/servers/quick/retry", {"fix": "max-model-len=1"}, status=409)
    app.post("/api/servers/nobody/retry", {"fix": "x"}, status=404)
    assert app.server("offered")["state"] == "failed"


def test_a_fix_that_changes_nothing_is_not_offered(app: DeckApp, fail: Any) -> None:
    """The port is always ours: it stands in the log, and not in the model's file."""
    assert fail("ports", "err_port_in_use")["exit"]["diagnosis"]["fixes"] == []


def test_a_port_that_is_taken_is_refused_with_a_fix(app: DeckApp, place: Place) -> None:
    app.start("quick")
    place.add_model("same-port", f"port: {app.server('quick')['port']}\n")
    app.post("/api/servers/same-port/start", status=202)
    status = app.wait_for("same-port", "failed")
    assert status["exit"]["cause"] == "not_launched"
    fix = fix_of(status, "Start without --port")
    app.post("/api/servers/same-port/retry", {"fix": fix["id"]}, status=202)
    app.wait_for("same-port")


def test_the_chat_is_told_why(app: DeckApp, fail: Any) -> None:
    fail("mute", "err_gpu_busy")
    last = app.chat("mute", conversation="conversation-mute")[-1]
    assert last["type"] == "error"
    assert last["diagnosis"]["server"] == "mute"
    assert last["diagnosis"]["title"].startswith("Only 8.15 of the GPU's 79.18 GiB are free")
    assert last["message"].startswith("mute did not start.")
    assert "evidence" not in last["diagnosis"]
