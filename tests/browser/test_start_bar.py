"""The bar of a start: without a figure at the first time, with the time that is left at the second."""

from __future__ import annotations

import re
import shutil

import pytest
from deck_app import DeckApp
from playwright.sync_api import expect

from browser.conftest import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]


def test_bar_learns_from_the_first_start(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("learner", ready_after=6, parrot=1)
    own = app.place.weights.with_name("learner")  # others have been started from the folder that tests share
    shutil.copytree(app.place.weights, own)
    file = app.place.models_dir / "learner.yaml"
    file.write_text(file.read_text().replace(str(app.place.weights), str(own)))
    page = open_page(app, model="learner")
    page.open_tab("servers")
    page.press("learner", "Start")
    card = page.server("learner")
    bar = card.get_by_role("progressbar")
    expect(card).to_contain_text("First start with these flags on this machine: no estimate yet.")
    expect(card).to_contain_text("loading weights")
    assert bar.get_attribute("aria-valuenow") is None
    assert card.locator(".phases i").count() == len(app.get("/api/snapshot")["phases"]) - 3, (
        "no download, no prepare, no sleep"
    )
    expect(card.locator(".chip")).to_have_text("ready")
    expect(card).to_contain_text(re.compile(r"started in \d+ s"))
    expect(card).not_to_contain_text("last time")
    expect(bar).to_have_count(0)

    page.press("learner", "Stop")
    expect(page.server("learner").get_by_role("button", name="Start")).to_be_visible()
    page.open_tab("chat")
    page.send("Hello")  # which starts it again
    left = re.compile(r"Starting learner: .+ · about \d+ s left")
    expect(page.live).to_contain_text(left)
    expect(page.page.locator("#deck-live .phase")).to_contain_text(re.compile(r"· \d+ s left"))
    page.open_tab("servers")
    expect(card.locator(".phase-line")).to_contain_text(re.compile(r"· about \d+ s left\s*\d+ % · \d+ s"))
    assert int(bar.get_attribute("aria-valuenow") or -1) in range(100)
    assert "(last time" in (bar.get_attribute("title") or "")
    expect(card).not_to_contain_text("no estimate")
    expect(card).to_contain_text(re.compile(r"started in \d+ s \(last time \d+ s\)"))
    page.open_tab("chat")
    page.wait_until_idle()


def test_bar_on_a_phone_in_chinese(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("phone", ready_after=4.5)  # as no other test, whose start would be remembered
    page = open_page(app, model="phone", size=(390, 844), locale="zh-CN")
    page.open_tab("servers")
    app.post("/api/servers/phone/start", status=202)
    expect(page.server("phone").get_by_role("progressbar")).to_be_visible()
    expect(page.server("phone")).to_contain_text(re.compile("暂无预估时间|启动时间估算"))
    assert page.wider_than_the_window() == []
