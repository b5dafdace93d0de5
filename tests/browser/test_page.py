"""The page as a whole: its languages, its sizes, its look, and what it does when nobody looks or nobody answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from deck_app import ROOT, DeckApp, Place, eventually
from playwright.sync_api import expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage
from server_manager import SAMPLING_PARAMS

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

TABS = ("chat", "servers", "gpus")
LONG_NAME = "a-model-with-a-rather-long-name-as-they-have-them-on-the-hub-Instruct-GPTQ-Int4"


@pytest.fixture
def busy_app(app: DeckApp) -> DeckApp:
    """With something of every kind on the page: a server that is up, one that failed, one that is starting."""
    app.place.add_model(LONG_NAME, exit_code=1)
    app.place.add_model("in-preparation", ready_after=120)
    app.start("quick")
    app.post(f"/api/servers/{LONG_NAME}/start", status=202)
    app.wait_for(LONG_NAME, "failed")
    app.post("/api/servers/in-preparation/start", status=202)
    return app


def fill_the_chat(page: DeckPage) -> None:
    page.ask("A question that has " + "a good many words " * 10)
    page.ask(
        "```python\nprint('"
        + "x" * 300
        + "')\n```\n\n| "
        + "column | " * 12
        + "\n|"
        + "---|" * 12
        + "\n\nhttps://host.example/"
        + "y" * 300
    )


def test_nobody_else_is_asked_and_nothing_is_complained_about(busy_app: DeckApp, open_page: OpenPage) -> None:
    """The fixture looks at all requests and at the console when the page is closed."""
    page = open_page(busy_app, model="quick", own=True)
    fill_the_chat(page)
    for tab in TABS:
        page.open_tab(tab)
    page.open_tab("servers")
    page.open_form()
    page.page.get_by_role("button", name="Settings").click()
    page.load()
    assert len(page.requests) > 20


def test_every_script_comes_from_us(app: DeckApp, open_page: OpenPage) -> None:
    page = open_page(app, own=True)
    assert page.page.evaluate('document.querySelectorAll(\'script[src^="http"]:not([src*="127.0.0.1"])\').length') == 0
    assert page.page.evaluate("[...document.fonts].filter(f => f.status === 'error').map(f => f.family)") == []


def test_theme_is_kept(app: DeckApp, open_page: OpenPage) -> None:
    page = open_page(app, color_scheme="light")
    body = page.page.locator("body")
    expect(body).not_to_have_class(re.compile("dark"))
    light = page.page.evaluate("getComputedStyle(document.querySelector('#chat-pane')).backgroundColor")
    page.page.get_by_role("button", name="Light or dark").click()
    expect(body).to_have_class(re.compile("dark"))
    assert page.page.evaluate("getComputedStyle(document.querySelector('#chat-pane')).backgroundColor") != light
    page.load()
    expect(body).to_have_class(re.compile("dark"))
    page.page.get_by_role("button", name="Light or dark").click()
    page.load()
    expect(body).not_to_have_class(re.compile("dark"))


def test_dark_where_the_system_is_dark(app: DeckApp, open_page: OpenPage) -> None:
    page = open_page(app, color_scheme="dark")
    expect(page.page.locator("body")).to_have_class(re.compile("dark"))


def locale(name: str) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load((ROOT / "webui" / "locales" / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("language", ["zh-CN", "zh-TW"])
def test_chinese_everywhere(busy_app: DeckApp, open_page: OpenPage, language: str) -> None:
    page = open_page(busy_app, model="quick", locale=language)
    expect(page.page.locator("#tab-chat-button")).to_have_text("对话")
    expect(page.button("send")).to_have_text("发送")
    expect(page.text).to_have_attribute("placeholder", re.compile("输入问题"))
    expect(page.chip).to_have_text("就绪")
    page.ask("你好")
    english, chinese = locale("en"), locale("zh-CN")
    # Whole texts that would be English, and keys that would be shown as they are.
    differing = {english[key] for key in english if english[key] != chinese[key] and "{" not in english[key]}
    differing -= {row.name for row in SAMPLING_PARAMS}  # they stand as in a request
    for tab in TABS:
        page.open_tab(tab)
        if tab == "servers":
            expect(page.page.locator("#server-list")).to_contain_text("启动失败")
            page.page.get_by_role("tab", name="模型与参数").click()
            page.page.get_by_role("button", name="所有模型的来源").click()
        texts = {line.strip() for line in page.page.locator("body").inner_text().splitlines()}
        left = {
            text for text in texts if text in differing or (re.fullmatch(r"[a-z]+(_[a-z]+)+", text) and text in english)
        }
        assert not left, f"not in Chinese on the tab {tab}: {left}"
    expect(page.page.locator("#sampling-temperature")).to_have_attribute("title", re.compile("控制用词"))


@pytest.mark.parametrize("language", ["de-DE", "zh-HK"])
def test_other_languages_get_english_and_no_mixture(app: DeckApp, open_page: OpenPage, language: str) -> None:
    app.start("quick")
    page = open_page(app, model="quick", locale=language)
    expect(page.page.locator("#tab-chat-button")).to_have_text("Chat")
    expect(page.chip).to_have_text("ready")


@pytest.mark.parametrize("size", [(390, 844), (768, 1024), (1280, 800)], ids=["phone", "tablet", "laptop"])
def test_nothing_is_wider_than_the_window(busy_app: DeckApp, open_page: OpenPage, size: tuple[int, int]) -> None:
    page = open_page(busy_app, model="quick", size=size)
    fill_the_chat(page)
    for tab in TABS:
        page.open_tab(tab)
        assert not page.wider_than_the_window(), tab
        assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab
    page.open_tab("servers")
    page.press("in-preparation", "Log")
    page.open_form()
    assert not page.wider_than_the_window(), "form"


def test_phone_shows_conversation_and_input_at_once(app: DeckApp, open_page: OpenPage) -> None:
    app.start("quick")
    page = open_page(app, model="quick", size=(390, 844))
    page.ask("Hello")
    expect(page.text).to_be_in_viewport()
    expect(page.button("send")).to_be_in_viewport()
    expect(page.answers).to_be_in_viewport()
    rows = {
        "turn": page.page.locator("#turns .bot-row .turn-tools button"),
        "input": page.page.locator("#chat-input button"),
        "bar": page.page.locator("#conversation-list-button, #conversation-new, #conversation-more"),
    }
    for name, row in rows.items():
        boxes = [box for button in row.all() if (box := button.bounding_box())]
        assert boxes, name
        assert len({round(box["y"] + box["height"] / 2) for box in boxes}) == 1, (
            f"the buttons of {name} stand in one row"
        )
        assert all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes)), f"{name}: beside each other"


@pytest.fixture
def own_app(tmp_path: Path) -> Iterator[tuple[Place, DeckApp]]:
    """An app that a test may end."""
    place = Place(tmp_path)
    place.add_model("quick", parrot=1)
    app = DeckApp(place).wait_until_up()
    yield place, app
    app.close()
    place.close()


def test_page_outlives_the_app(own_app: tuple[Place, DeckApp], open_page: OpenPage) -> None:
    place, app = own_app
    page = open_page(app, model="quick", own=True)
    page.ask("Before")
    page.expected_errors += [
        "ERR_CONNECTION_REFUSED",
        "ERR_INCOMPLETE_CHUNKED",
        "ERR_CONNECTION_RESET",
        "ERR_EMPTY",
        "EventSource",
    ]
    app.end()
    banner = page.page.locator("#deck-live .banner")
    expect(banner).to_contain_text("vLLM Deck does not answer.")
    page.send("Nobody is there")
    expect(page.status).to_contain_text("vLLM Deck does not answer.")
    expect(page.text).to_have_value("Nobody is there")

    again = DeckApp(place, port=app.port).wait_until_up()
    try:
        expect(banner).to_be_hidden()
        expect(page.chip).to_have_text("stopped")
        expect(page.questions).to_have_text(["Before"])
        page.text.press("Enter")
        page.wait_until_idle()
        expect(page.answers).to_have_text(["Before", "Nobody is there"])
        page.load()  # what the app has kept of it
        expect(page.answers).to_have_text(["Before", "Nobody is there"])
    finally:
        page.close()
        again.close()


def test_hidden_page_asks_nothing(app: DeckApp, open_page: OpenPage) -> None:
    page = open_page(app)
    page.open_tab("servers")

    def polls() -> int:
        return sum("/api/snapshot" in url or "/logs" in url for url in page.requests)

    before = polls()
    eventually(lambda: page.page.evaluate("1") and polls() > before, "it asks while it is looked at")
    page.page.evaluate(
        """() => {
          Object.defineProperty(document, 'hidden', { value: true, configurable: true });
          document.dispatchEvent(new Event('visibilitychange'));
        }"""
    )
    page.page.wait_for_timeout(1500)  # whatever was on its way
    hidden = len(page.requests)
    page.page.wait_for_timeout(3500)
    assert len(page.requests) == hidden, page.requests[hidden:]
    page.page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    eventually(
        lambda: page.page.evaluate("1") and any("/api/history" in url for url in page.requests[hidden:]),
        "it catches up",
    )
    eventually(
        lambda: page.page.evaluate("1") and any("/api/snapshot" in url for url in page.requests[hidden:]), "and goes on"
    )
