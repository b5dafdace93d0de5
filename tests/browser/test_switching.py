"""Switching between models that do not fit together, as it is seen on the page; over a pretended GPU."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import fake_gpu
import pytest
from deck_app import DeckApp, Place, eventually
from playwright.sync_api import expect

from browser.conftest import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def gpu_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeckApp]:
    """An app on a machine with a GPU of 80 GiB."""
    folder = tmp_path_factory.mktemp("switching")
    place = Place(folder / "place")
    fake_gpu.write_weights(place.weights)
    place.add_model(
        "alpha", answer_tokens=100, tokens_per_second=12, weights_gib=fake_gpu.WEIGHTS_GIB, sleep_seconds=0.3
    )
    place.add_model("beta", "seed: 1\n", parrot=1, weights_gib=fake_gpu.WEIGHTS_GIB, sleep_seconds=0.3)
    for name in ("left", "middle", "right"):
        place.add_model(name, "gpu-memory-utilization: 0.4\n", weights_gib=fake_gpu.WEIGHTS_GIB)
    app = DeckApp(place, env=fake_gpu.make_gpus(folder / "gpus", 80)).wait_until_up()
    yield app
    app.close()
    place.close()


@pytest.fixture
def app(gpu_app: DeckApp) -> Iterator[DeckApp]:
    """The same, without a server."""
    yield gpu_app
    for server in gpu_app.get("/api/snapshot")["servers"]:
        if server["state"] not in ("stopped", "failed"):
            gpu_app.post(f"/api/servers/{server['name']}/stop")


def test_list_of_models_tells_what_each_pick_costs(app: DeckApp, open_page: OpenPage) -> None:
    page = open_page(app, model="alpha")
    expect(page.picker).to_have_value("alpha · cold")
    app.start("alpha")
    expect(page.picker).to_have_value("alpha · ready")
    app.start("beta")
    expect(page.picker).to_have_value(re.compile(r"^alpha · asleep, 0\.\d s$"))
    eventually(lambda: "beta · ready" in page.choices(), "the end of the start is seen")
    app.post("/api/servers/alpha/stop")
    expect(page.picker).to_have_value(re.compile(r"^alpha · cold, about \d+\.\d s$"))


def test_who_waits_is_told_for_whom(app: DeckApp, open_page: OpenPage) -> None:
    app.start("beta")
    app.start("alpha")
    page = open_page(app, model="beta")
    other = threading.Thread(target=app.chat, args=("alpha",))
    other.start()
    eventually(lambda: (app.snapshot_of("alpha")["metrics"] or {}).get("num_requests_running"), "the answer to begin")
    page.send("Me too")
    words = "waiting for the answers of alpha to end"
    page.wait_for_live_text(re.compile(f"beta: {words}"))
    told = page.page.locator("#deck-live .phase")
    expect(told).to_have_text("waits for alpha")
    expect(told).to_have_attribute("title", words)
    page.wait_until_idle()
    assert page.answers.last.inner_text() == "Me too"
    other.join(30)


def test_server_is_put_to_sleep_by_hand_and_tells_what_it_holds(app: DeckApp, open_page: OpenPage) -> None:
    app.start("beta")
    page = open_page(app, model="beta")
    page.open_tab("servers")
    card = page.server("beta")
    expect(card).to_contain_text(re.compile(r"planned 7\d\.\d GiB, holds 7\d\.\d GiB"))
    page.press("beta", "Sleep")
    expect(card).to_contain_text(re.compile(r"asleep \(level 1\), wakes in 0\.\d s"))
    expect(card).to_contain_text("holds 1.5 GiB of GPU memory while asleep")
    page.press("beta", "Wake")
    expect(page.chip).to_have_text("ready")


def test_ticked_the_model_before_is_left_alone(app: DeckApp, open_page: OpenPage) -> None:
    app.start("left")
    app.start("middle")
    page = open_page(app, model="left")
    page.page.get_by_label("keep the other up").check()
    page.pick("right")
    app.wait_for("right")
    assert [app.server(name)["state"] for name in ("left", "middle")] == ["ready", "asleep"]
    page.page.get_by_label("keep the other up").uncheck()
    page.pick("middle")
    app.wait_for("middle")
    assert [app.server(name)["state"] for name in ("left", "right")] == ["ready", "asleep"]


def test_what_is_set_of_switching_is_saved_with_the_model(app: DeckApp, open_page: OpenPage) -> None:
    page = open_page(app, model="left")
    page.open_tab("servers")
    page.open_form()
    expect(page.field("tensor-parallel-size")).to_have_attribute("placeholder", "1")
    page.field("Sleep after (minutes)").fill("15")
    page.page.locator("#form-switchable input").click()
    page.page.get_by_role("option", name="no", exact=True).click()
    page.page.locator("#form-save").click()
    expect(page.page.locator("#form-message")).to_contain_text("Saved")
    saved = (app.place.models_dir / "left.env").read_text()
    assert "DECK_SLEEP_AFTER='15'" in saved
    assert "DECK_SWITCHABLE='no'" in saved
    assert "DECK_STOP_AFTER" not in saved


def test_models_that_do_not_fit_together_are_compared_one_after_another(app: DeckApp, open_page: OpenPage) -> None:
    app.start("beta")
    app.start("alpha")
    page = open_page(app, model="alpha")
    page.open_tab("compare")
    for place, name in enumerate(("alpha", "beta")):
        page.page.locator(f"#compare-head-{place} select").select_option(name)
    box = page.page.locator("#compare-text")
    box.fill("One after the other")
    box.press("Enter")
    expect(page.page.locator("#compare-live-0")).to_contain_text("word")
    expect(page.page.locator("#compare-live-1")).to_contain_text("beta: waiting for the answers of alpha to end")
    expect(page.page.locator("#compare-foot-0")).to_contain_text("100 tokens")
    expect(page.page.locator("#compare-turns-1 .message.bot")).to_contain_text("One after the other")
