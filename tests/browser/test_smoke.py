"""The smoke test on a server's card."""

from __future__ import annotations

from pathlib import Path

import pytest
from deck_app import DeckApp
from playwright.sync_api import expect

from browser.conftest import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]

RECORDED = Path(__file__).resolve().parents[1] / "vllm_answers"


def test_button_shows_the_answers_and_the_verdict(app: DeckApp, open_page: OpenPage) -> None:
    """In Chinese and on a phone; the result goes with the server that it is about."""
    app.place.add_model("doubtful", recorded=RECORDED / "random_weights.json")
    app.start("doubtful")
    page = open_page(app, model="doubtful", locale="zh-CN", size=(390, 844))
    page.open_tab("servers")
    card = page.server("doubtful")
    page.press("doubtful", "冒烟测试")
    expect(card.locator(".smoke")).to_have_attribute("data-verdict", "fail")
    expect(card.locator(".smoke")).to_contain_text("模型不懂普通英语")
    expect(card.locator(".smoke dt")).to_have_count(4)
    expect(card.locator(".smoke dt").nth(2)).to_have_text("The capital of France is …")
    assert not page.wider_than_the_window()

    app.post("/api/servers/doubtful/stop")
    app.start("doubtful")
    expect(card.locator(".smoke")).to_have_count(0)
    expect(card.get_by_role("button", name="冒烟测试")).to_be_enabled()
