"""Models take turns on a GPU that holds only one of them: sleep, wake, queue, and what happens when a change fails.

The GPUs are those of ``fake_gpu`` (see ``machine``): the fake vLLM refuses to start, as the real one does, where memory
is not there.
"""

from __future__ import annotations

import json
import signal
import threading

import pytest
from deck_app import DeckApp, eventually, text_of

from whole_app.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def states(app: DeckApp, *names: str) -> list[str]:
    return [app.server(name)["state"] for name in names]


def used_gib(app: DeckApp) -> float:
    return sum(device["memory_used_bytes"] for device in app.get("/api/gpus")["devices"]) / 2**30


def test_second_model_puts_the_first_to_sleep_and_a_chat_brings_it_back(machine: Machine) -> None:
    app = machine(80, models={"alpha": {"parrot": 1}, "beta": {"parrot": 1}})
    app.start("alpha")
    first = app.server("alpha")
    assert "--enable-sleep-mode" in first["command"]
    assert first["sleep"]["first_sleep_s"] is not None, "it slept once before it was ready"
    app.start("beta")
    assert states(app, "alpha", "beta") == ["asleep", "ready"]
    assert used_gib(app) < 80
    assert text_of(app.chat("alpha", "Good morning")) == "Good morning"
    assert states(app, "alpha", "beta") == ["ready", "asleep"]
    assert app.server("alpha")["pid"] == first["pid"], "woken, not started again"
    assert text_of(app.chat("beta", "Good evening")) == "Good evening"
    assert states(app, "alpha", "beta") == ["asleep", "ready"]


def test_second_model_fits_beside_the_first(machine: Machine) -> None:
    app = machine(80, models={"alpha": {"flags": "gpu-memory-utilization: 0.5\n"}, "beta": {}})
    app.start("alpha")
    app.start("beta")
    assert states(app, "alpha", "beta") == ["ready", "ready"]
    assert "--kv-cache-memory-bytes" in app.server("beta")["command"], "it takes no more than it needs"


def test_two_small_ones_stay_awake_side_by_side(machine: Machine) -> None:
    small = "gpu-memory-utilization: 0.3\n"
    app = machine(80, models={"alpha": {"flags": small}, "beta": {"flags": small}})
    app.start("alpha")
    app.start("beta")
    assert states(app, "alpha", "beta") == ["ready", "ready"]


def test_each_goes_to_the_gpu_that_has_room(machine: Machine) -> None:
    app = machine(80, 80, models={"alpha": {}, "beta": {}})
    app.start("alpha")
    app.start("beta")
    assert states(app, "alpha", "beta") == ["ready", "ready"]
    # The newest reading may be a second old.
    eventually(
        lambda: min(device["memory_used_bytes"] / 2**30 for device in app.get("/api/gpus")["devices"]) > 40,
        "both GPUs to be in use",
    )
    commands = [app.server(name)["command"] for name in ("alpha", "beta")]
    assert {"GPU-0" in command for command in commands} == {True, False}


def test_answer_that_is_going_on_is_finished_before_its_server_sleeps(machine: Machine) -> None:
    app = machine(80, models={"alpha": {"answer_tokens": 40, "tokens_per_second": 20}, "beta": {}})
    app.start("alpha")
    frames: list[dict[str, object]] = []
    begun = threading.Event()

    def ask() -> None:
        body = {"conversation": "conversation-1", "model": "alpha", "text": "Hello"}
        with app.http.stream("POST", "/api/chat", json=body) as response:
            for line in response.iter_lines():
                frames.append(json.loads(line))
                begun.set()

    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(30), "the answer to begin"
    app.post("/api/servers/beta/start", status=202)
    waiting = eventually(lambda: app.server("beta")["waiting"], "beta to wait")
    assert waiting["behind"] == ["alpha"]
    app.wait_for("beta", "ready")
    asking.join(30)
    assert frames[-1]["type"] == "done"
    assert "word39" in text_of(frames)
    assert states(app, "alpha", "beta") == ["asleep", "ready"]


def test_two_users_take_turns(machine: Machine) -> None:
    """Ten questions to each of two models that do not fit together: all are answered, in batches and not by thrash."""
    app = machine(80, models={"alpha": {"parrot": 1}, "beta": {"parrot": 1}})
    app.start("alpha")
    app.start("beta")
    answered: list[str] = []

    def ask(name: str, count: int) -> None:
        for index in range(count):
            answered.append(text_of(app.chat(name, f"{name} {index}", conversation=f"conversation-of-{name}")))

    users = [threading.Thread(target=ask, args=(name, 10)) for name in ("alpha", "beta")]
    for user in users:
        user.start()
    for user in users:
        user.join(120)
    assert sorted(answered) == sorted(f"{name} {index}" for name in ("alpha", "beta") for index in range(10))


def test_start_that_waits_behind_a_wake_does_not_hold_it_up(machine: Machine) -> None:
    app = machine(
        80, models={"alpha": {"answer_tokens": 40, "tokens_per_second": 20}, "beta": {"parrot": 1}, "gamma": {}}
    )
    app.start("beta")
    app.start("alpha")
    asking = [threading.Thread(target=app.chat, args=("alpha",))]
    asking[0].start()
    eventually(lambda: (app.snapshot_of("alpha")["metrics"] or {}).get("num_requests_running"), "the answer to begin")
    asking.append(threading.Thread(target=app.chat, args=("beta",), kwargs={"conversation": "conversation-2"}))
    asking[1].start()
    eventually(lambda: app.server("beta")["waiting"], "beta to wait")
    app.post("/api/servers/gamma/start", status=202)
    app.wait_for("gamma", "ready")
    for each in asking:
        each.join(30)
    assert states(app, "alpha", "beta", "gamma") == ["asleep", "asleep", "ready"]


def test_new_model_that_does_not_come_up_gives_the_room_back(machine: Machine) -> None:
    app = machine(80, models={"alpha": {}, "broken": {"ready_after": 1, "exit_code": 1}})
    app.start("alpha")
    app.post("/api/servers/broken/start", status=202)
    app.wait_for("broken", "failed")
    app.wait_for("alpha", "ready")
    assert "Engine core initialization failed" in str(app.server("broken")["exit"])


@pytest.mark.parametrize("fault", ["error", "half", "garbage", "dies"])
def test_bad_wake_ends_in_a_cold_start_and_the_answer_comes_all_the_same(machine: Machine, fault: str) -> None:
    app = machine(80, models={"alpha": {"parrot": 1, "wake": fault, "wake_fault_after": 1}, "beta": {}})
    before = app.start("alpha")["pid"]
    app.start("beta")
    assert text_of(app.chat("alpha", "Still there?")) == "Still there?"
    assert app.server("alpha")["pid"] != before
    assert states(app, "alpha", "beta") == ["ready", "asleep"]


def test_model_that_fits_nowhere_is_refused_with_the_numbers(machine: Machine) -> None:
    app = machine(80, models={"alpha": {}, "huge": {"flags": "tensor-parallel-size: 2\n"}})
    app.start("alpha")
    app.post("/api/servers/huge/start", status=202)
    app.wait_for("huge", "failed")
    exit = app.server("huge")["exit"]
    assert "GPU" in exit["message"]
    assert states(app, "alpha") == ["ready"]


def test_switch_leaves_the_one_that_the_operator_spares(machine: Machine) -> None:
    app = machine(80, models={name: {"flags": "gpu-memory-utilization: 0.4\n"} for name in ("alpha", "beta", "gamma")})
    app.start("alpha")
    app.start("beta")
    app.post("/api/servers/gamma/start", {"sparing": "alpha"}, status=202)
    app.wait_for("gamma", "ready")
    assert states(app, "alpha", "beta", "gamma") == ["ready", "asleep", "ready"]


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_kept_servers_take_turns_under_the_next_app_too(machine: Machine, with_signal: int) -> None:
    """It must know which one sleeps, and how much each takes back, or a wake would end in a cold start."""
    app = machine(80, models={"alpha": {"parrot": 1}, "beta": {"parrot": 1}}, args=("--keep-servers",))
    pids = [app.start(name)["pid"] for name in ("alpha", "beta")]
    app.end(with_signal)
    app = machine()
    app.wait_for("alpha", "asleep")
    app.wait_for("beta")
    for name, other in (("alpha", "beta"), ("beta", "alpha")):
        assert text_of(app.chat(name, f"Still there, {name}?")) == f"Still there, {name}?"
        assert states(app, name, other) == ["ready", "asleep"]
    assert [app.server(name)["pid"] for name in ("alpha", "beta")] == pids, "woken, not started again"


def test_idle_model_sleeps_and_is_stopped_later(machine: Machine) -> None:
    app = machine(80, models={"alpha": {}})
    app.place.set_variables("alpha", DECK_SLEEP_AFTER="0.02", DECK_STOP_AFTER="0.15")
    app.start("alpha")
    app.wait_for("alpha", "asleep")
    app.wait_for("alpha", "stopped")
