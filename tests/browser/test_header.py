"""The header: the model in use, its state, and the machine's memory."""

from __future__ import annotations

import re

import pytest
from deck_app import DeckApp, eventually
from playwright.sync_api import expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def pair(app: DeckApp, open_page: OpenPage) -> DeckPage:
    """The page with ``left`` ready, and ``right`` there to be picked."""
    app.place.add_model("left", parrot=1)
    app.place.add_model("right", echo=1, ready_after=1)
    app.start("left")
    return open_page(app, model="left")


def test_picking_a_model_switches_to_it_and_the_chat_goes_on(app: DeckApp, pair: DeckPage) -> None:
    pair.ask("Said to the left")
    pair.pick("right")
    expect(pair.chip).to_have_text(re.compile("starting|ready"))
    app.wait_for("left", "stopped")
    app.wait_for("right")
    expect(pair.picker).to_have_value("right · ready")
    pair.ask("Said to the right")
    expect(pair.questions).to_have_text(["Said to the left", "Said to the right"])
    # The model that took over was told what had been said.
    expect(pair.answers.last).to_contain_text('"Said to the left"')


def test_model_before_stays_up_if_wished(app: DeckApp, pair: DeckPage) -> None:
    pair.page.get_by_label("keep the other up").check()
    pair.pick("right")
    app.wait_for("right")
    assert app.server("left")["state"] == "ready"
    assert "left · ready" in pair.choices()
    pair.load()
    expect(pair.page.get_by_label("keep the other up")).to_be_checked()


def test_states_in_the_dropdown_are_live(app: DeckApp, pair: DeckPage) -> None:
    choices = pair.choices()
    assert "left · ready" in choices
    assert "right" in [choice.partition(" · ")[0] for choice in choices]
    app.post("/api/servers/left/stop")  # by somebody else
    expect(pair.picker).to_have_value(re.compile("left · cold, about [0-9.]+ s"))
    expect(pair.chip).to_have_text("stopped")
    app.place.add_model("slowly", ready_after=5)
    app.post("/api/servers/slowly/start", status=202)
    eventually(lambda: any("slowly · starting" in choice for choice in pair.choices()), "the start is seen")
    eventually(lambda: "slowly · ready" in pair.choices(), "and its end")


def test_phases_of_a_start_are_told(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("phased", ready_after=10)
    page = open_page(app, model="phased")
    app.post("/api/servers/phased/start", status=202)
    expect(page.page.locator("#deck-live .phase")).to_contain_text("loading weights")
    expect(page.page.locator("#deck-live .phase")).to_contain_text(re.compile(r"\d+ s"))
    expect(page.chip).to_have_text("ready")


def test_name_that_is_no_model_is_not_taken(pair: DeckPage) -> None:
    pair.picker.fill("nonsense")
    pair.picker.press("Enter")
    pair.text.click()
    expect(pair.picker).to_have_value("left · ready")
    assert pair.ask("Still there?") == "Still there?"


def test_memory_and_tokens_per_second_are_shown(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("talker", tokens_per_second=50, answer_tokens=2000)
    app.start("talker")
    page = open_page(app, model="talker")
    meter = page.page.locator("#deck-live .meter")
    expect(meter).to_contain_text("RAM")
    expect(meter).to_contain_text(re.compile(r"\d+\.\d / \d+\.\d GiB"))
    expect(meter.locator('[data-owner="talker"]')).to_have_count(1)  # its share of the bar
    page.send("Talk")
    expect(page.page.locator("#deck-live .rate")).to_have_text(re.compile(r"^[1-9]\d* tok/s"))
    page.button("stop").click()
    page.wait_until_idle()


def test_refused_start_is_told_in_the_chat(app: DeckApp, pair: DeckPage) -> None:
    (app.place.models_dir / "nowhere.yaml").write_text("model: /no/such/folder\n")
    eventually(lambda: any("nowhere" in choice for choice in pair.choices()), "the new file is offered")
    pair.pick("nowhere")
    expect(pair.chip).to_have_text("failed")
    pair.send("Hello?")
    expect(pair.status).to_contain_text("There is no folder /no/such/folder")
    expect(pair.text).to_have_value("Hello?")
