"""Which GPU a model goes to, and machines whose driver does not show who holds the memory."""

from __future__ import annotations

import pytest
from deck_app import DeckApp, eventually, text_of

from whole_app.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def states(app: DeckApp, *names: str) -> list[str]:
    return [app.server(name)["state"] for name in names]


def test_models_take_turns_where_the_driver_hides_processes(machine: Machine) -> None:
    """As in a container: what each holds is known only from how the memory moves."""
    app = machine(80, models={"alpha": {"parrot": 1}, "beta": {"parrot": 1}}, hide_processes=True)
    app.start("alpha")
    app.start("beta")
    assert states(app, "alpha", "beta") == ["asleep", "ready"]
    assert text_of(app.chat("alpha", "Good morning")) == "Good morning"
    assert states(app, "alpha", "beta") == ["ready", "asleep"]
    assert text_of(app.chat("beta", "Good evening")) == "Good evening"
    assert states(app, "alpha", "beta") == ["asleep", "ready"]
    held = eventually(lambda: app.snapshot_of("beta")["gpu_estimate_bytes"], "an estimate for the page")
    assert held > 10 * 2**30


def test_models_go_to_the_gpus_that_their_own_variables_name_by_uuid(machine: Machine) -> None:
    """Two of them want the second one, and take turns there; the third finds the first one empty."""
    app = machine(80, 80, models={"alpha": {}, "beta": {}, "gamma": {}})
    for name in ("alpha", "beta"):
        app.place.set_variables(name, CUDA_VISIBLE_DEVICES="GPU-1")
    app.start("alpha")
    app.start("beta")
    assert states(app, "alpha", "beta") == ["asleep", "ready"]
    app.start("gamma")
    assert states(app, "alpha", "beta", "gamma") == ["asleep", "ready", "ready"]
    assert "CUDA_VISIBLE_DEVICES=GPU-0" in app.server("gamma")["command"]

    def in_use() -> list[bool]:
        return [device["memory_used_bytes"] > 20 * 2**30 for device in app.get("/api/gpus")["devices"]]

    eventually(lambda: in_use() == [True, True], "both GPUs to be in use")
