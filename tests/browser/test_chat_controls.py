"""The sliders and the system prompt beside the chat, and the way the conversation scrolls."""

from __future__ import annotations

import json
import re

import pytest
from deck_app import DeckApp, eventually
from playwright.sync_api import expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def echo(app: DeckApp, open_page: OpenPage) -> DeckPage:
    """The page with a model that answers with the request that it got."""
    app.place.add_model("echo", echo=1)
    app.start("echo")
    return open_page(app, model="echo")


def asked_for(page: DeckPage) -> dict[str, object]:
    """The request that led to the last answer of ``echo``."""
    conversation = page.page.evaluate("sessionStorage.getItem('deck-conversation')")
    answer: str = page.page.evaluate(
        "async (id) => (await (await fetch(`/api/conversations/${id}`)).json()).turns.at(-1).assistant", conversation
    )
    found: dict[str, object] = json.loads(answer)
    return found


def test_values_reach_the_server(echo: DeckPage) -> None:
    # What the model itself has is there: its context too, which only the server that is up tells.
    expect(echo.page.locator("#sampling-max_tokens input[type=range]")).to_have_attribute("max", "2048")
    echo.page.get_by_role("button", name="More parameters").click()
    echo.set_slider("temperature", 0.3)
    echo.set_slider("top_p", 0.55)
    echo.set_slider("repetition_penalty", 1.15)
    echo.set_slider("max_tokens", 77)
    echo.set_slider("top_k", 33)
    echo.set_slider("min_p", 0.05)
    echo.set_slider("presence_penalty", 0.5)
    echo.set_slider("frequency_penalty", -0.25)
    echo.set_slider("seed", 4711)
    echo.page.locator("#sampling-temperature input[type=range]").press("ArrowRight")
    expect(echo.slider("temperature")).to_have_value("0.35")
    echo.page.locator("#system-prompt textarea").fill("You are a pirate.")
    echo.ask("Ahoy")
    request = asked_for(echo)
    sampling = {
        "temperature": 0.35,
        "top_p": 0.55,
        "repetition_penalty": 1.15,
        "max_tokens": 77,
        "top_k": 33,
        "min_p": 0.05,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.25,
        "seed": 4711,
    }
    assert {key: request[key] for key in sampling} == sampling
    assert request["messages"] == [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": "Ahoy"},
    ]


def test_empty_system_prompt_and_empty_seed_are_left_out(echo: DeckPage) -> None:
    echo.page.locator("#system-prompt textarea").fill("")
    echo.ask("Hello")
    request = asked_for(echo)
    assert request["messages"] == [{"role": "user", "content": "Hello"}]
    assert "seed" not in request


def test_sliders_show_what_the_model_recommends(app: DeckApp, open_page: OpenPage) -> None:
    weights = app.place.weights.with_name("recommending")
    weights.mkdir()
    (weights / "config.json").write_text(json.dumps({"max_position_embeddings": 700}))
    (weights / "generation_config.json").write_text(
        json.dumps({"temperature": 0.6, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05})
    )
    (app.place.models_dir / "advised.yaml").write_text(f"model: {weights}\nmax-model-len: 512\n")
    page = open_page(app, model="advised")
    for name, value in (
        ("temperature", "0.6"),
        ("top_p", "0.8"),
        ("repetition_penalty", "1.05"),
        ("max_tokens", "700"),
    ):
        expect(page.slider(name)).to_have_value(value)
    expect(page.page.locator("#sampling-max_tokens input[type=range]")).to_have_attribute("max", "700")

    page.set_slider("temperature", 1.9)
    app.start("advised")
    # Once it is up its real context is known. What somebody has moved stays.
    expect(page.page.locator("#sampling-max_tokens input[type=range]")).to_have_attribute("max", "512")
    expect(page.slider("max_tokens")).to_have_value("512")
    expect(page.slider("temperature")).to_have_value("1.9")

    page.page.get_by_role("button", name="model's defaults").click()
    expect(page.slider("temperature")).to_have_value("0.6")


def test_another_model_brings_its_own_values(app: DeckApp, page: DeckPage) -> None:
    weights = app.place.weights.with_name("hot")
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "generation_config.json").write_text(json.dumps({"temperature": 1.25}))
    (app.place.models_dir / "hot.yaml").write_text(f"model: {weights}\n")
    expect(page.slider("temperature")).to_have_value("0.7")
    page.set_slider("temperature", 0.1)
    eventually(lambda: "hot" in page.choices(), "the new file is offered")
    page.pick("hot")
    expect(page.slider("temperature")).to_have_value("1.25")


def test_each_slider_explains_itself(page: DeckPage) -> None:
    expect(page.page.locator("#sampling-top_p")).to_have_attribute("title", "Picks only among the likeliest words that "
        "together have this probability; 1 is off.")  # fmt: skip
    expect(page.page.get_by_text("Sampling", exact=True)).to_be_visible()


def test_long_conversation_follows_the_text_unless_the_reader_is_elsewhere(app: DeckApp, page: DeckPage) -> None:
    conversation = page.page.evaluate("sessionStorage.getItem('deck-conversation')")
    for turn in range(29):
        app.chat("quick", f"Question {turn}: " + "and so on " * 20, conversation=conversation)
    page.load()
    expect(page.questions).to_have_count(29)
    page.ask("And the last question")
    expect(page.questions).to_have_count(30)
    eventually(lambda: page.scroll[1] < 2, "the end is in view")
    expect(page.answers.last).to_be_in_viewport()

    app.place.add_model("long", "max-model-len: 32768\n", tokens_per_second=40, answer_tokens=1000)
    eventually(lambda: re.search(r"^long\b", "\n".join(page.choices()), re.MULTILINE), "the new file is offered")
    page.pick("long")
    expect(page.chip).to_have_text("ready")
    page.send("Talk")
    page.wait_for_live_text("word60")
    eventually(lambda: page.scroll[1] < 2, "the end is in view while text comes")

    page.turn_wheel(-30)  # a small step, as of a touchpad
    held = page.scroll[0]
    words = page.live.inner_text().count("word")
    page.wait_for_live_text(f"word{words + 40}")
    assert page.scroll[0] == held, "even after a small step the view stays"
    page.turn_wheel(-600)
    held = page.scroll[0]
    words = page.live.inner_text().count("word")
    page.wait_for_live_text(f"word{words + 40}")
    assert page.scroll[0] == held, "the view stays while text comes"
    page.button("stop").click()
    page.wait_until_idle()
    assert page.scroll[0] == held, "the view stays when the answer moves up"

    page.turn_wheel(100_000)
    page.send("Talk")
    page.wait_for_live_text("word60")
    eventually(lambda: page.scroll[1] < 2, "the text is followed again")
    page.button("stop").click()
    page.wait_until_idle()
