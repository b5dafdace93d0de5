"""The Compare tab: one question to several models side by side."""

from __future__ import annotations

import pytest
from deck_app import DeckApp
from playwright.sync_api import Locator, expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]


class Comparison:
    """The tab as a person uses it."""

    def __init__(self, page: DeckPage) -> None:
        self.page = page.page
        page.open_tab("compare")
        expect(self.text).to_be_visible()

    @property
    def text(self) -> Locator:
        return self.page.locator("#compare-text")

    @property
    def columns(self) -> Locator:
        return self.page.locator(".compare-column:visible")

    def choose(self, place: int, model: str) -> None:
        self.page.locator(f"#compare-head-{place} select").select_option(model)

    def answers(self, place: int) -> Locator:
        return self.page.locator(f"#compare-turns-{place} .message.bot")

    def live(self, place: int) -> Locator:
        return self.page.locator(f"#compare-live-{place}")

    def foot(self, place: int) -> Locator:
        return self.page.locator(f"#compare-foot-{place}")

    def send(self, text: str) -> None:
        self.text.fill(text)
        self.text.press("Enter")


def test_models_answer_side_by_side(app: DeckApp, page: DeckPage) -> None:
    app.place.add_model("steady", "max-model-len: 4096\n", tokens_per_second=10, answer_tokens=400)
    app.place.add_model("failing", exit_code=1)
    app.start("steady")
    page.expected_errors.append(r"404 .*/x\)$")  # the picture: it may be asked of this app, of nobody else
    kept = app.get("/api/conversations")
    both = Comparison(page)
    expect(both.columns).to_have_count(2)
    both.choose(0, "quick")
    both.choose(1, "steady")
    both.send("**Bold** <img src=x onerror=alert(1)>")
    expect(both.answers(0)).to_contain_text("Bold")
    expect(both.answers(0).locator("strong")).to_have_text("Bold")
    expect(both.page.locator("#compare-turns-0 img[onerror]")).to_have_count(0)
    expect(both.foot(0)).to_contain_text("first token")
    expect(both.foot(0)).to_contain_text("tokens")
    expect(both.live(1)).to_contain_text("word1")
    both.foot(1).get_by_role("button", name="Stop").click()
    expect(both.answers(1)).to_contain_text("word1")
    expect(both.foot(1)).to_contain_text("stopped")

    both.page.locator("#compare-add").click()
    both.choose(2, "failing")
    expect(both.columns).to_have_count(3)
    both.send("A follow-up")
    expect(both.answers(0)).to_have_count(2)
    expect(both.live(1)).to_contain_text("word1")
    expect(both.foot(2).get_by_role("alert")).to_be_visible()
    expect(both.foot(2).get_by_role("button", name="Try again")).to_be_visible()
    both.page.locator("#compare-stop").click()
    expect(both.page.locator("#compare-send")).to_be_visible()
    both.page.get_by_role("button", name="Leave this model out: steady").click()
    expect(both.columns).to_have_count(2)
    expect(both.foot(1).get_by_role("button", name="Try again")).to_be_visible()
    both.page.locator("#compare-new").click()
    expect(both.answers(0)).to_have_count(0)
    assert app.get("/api/conversations") == kept, "comparisons are not kept"


def test_options_copy_keys_and_another_try(app: DeckApp, page: DeckPage) -> None:
    app.place.add_model("echo", "max-model-len: 4096\n", echo=1)
    app.place.add_model("steady", "max-model-len: 4096\n", tokens_per_second=10, answer_tokens=400)
    for name in ("echo", "steady"):
        app.start(name)
    page.set_slider("temperature", 0.15)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    both = Comparison(page)
    both.choose(0, "echo")
    both.choose(1, "steady")
    both.page.locator("#compare-input summary").click()
    both.page.get_by_role("combobox", name="Sampling").select_option("chat")
    both.page.get_by_role("textbox", name="System prompt").and_(both.page.locator("#compare-system")).fill("Be brief.")
    both.text.fill("Hello")
    both.page.locator("#compare-send").click()
    expect(both.answers(0)).to_contain_text('"temperature": 0.15')
    expect(both.answers(0)).to_contain_text('"content": "Be brief."')
    expect(both.live(1)).to_contain_text("word1")
    both.text.press("Escape")
    expect(both.foot(1)).to_contain_text("stopped")
    both.foot(0).get_by_role("button", name="Copy the answer").click()
    expect(both.foot(0).get_by_role("button", name="Copied")).to_be_visible()
    assert '"Be brief."' in both.page.evaluate("navigator.clipboard.readText()")

    both.page.route("**/api/chat", lambda route: route.abort())
    page.expected_errors.append("Failed to load resource")
    both.send("Again")
    again = both.foot(0).get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    both.page.unroute("**/api/chat")
    again.click()
    expect(both.answers(0)).to_have_count(2)


def test_chat_hands_its_question_over_to_compare(app: DeckApp, page: DeckPage) -> None:
    app.place.add_model("second", "max-model-len: 4096\n", ready_after=1)
    page.text.fill("From the chat")
    page.page.get_by_role("button", name="More about this conversation").click()
    page.page.get_by_role("menuitem", name="Compare models").click()
    expect(page.page.locator("#compare-text")).to_have_value("From the chat")
    expect(page.page.locator("#compare-head-0 select")).to_have_value("quick")


def test_columns_stand_below_each_other_on_a_phone(app: DeckApp, open_page: OpenPage) -> None:
    app.start("quick")
    page = open_page(app, model="quick", size=(390, 844), locale="zh-CN")
    both = Comparison(page)
    first, second = (both.columns.nth(place).bounding_box() for place in (0, 1))
    assert first
    assert second
    assert second["y"] >= first["y"] + first["height"]
    assert page.wider_than_the_window() == []
