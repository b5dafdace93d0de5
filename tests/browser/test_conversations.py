"""The list of conversations with its bar, presets of system prompts, and "Show as code"."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from deck_app import DeckApp
from playwright.sync_api import Locator, expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]


class Library:
    """The parts of the page that these tests use."""

    def __init__(self, page: DeckPage) -> None:
        self.deck = page
        self.page = page.page

    @property
    def title(self) -> Locator:
        return self.page.locator("#conversation-bar .title")

    @property
    def list(self) -> Locator:
        return self.page.locator("#conversation-list")

    @property
    def rows(self) -> Locator:
        return self.list.locator(".row .name")

    def open_list(self) -> None:
        self.page.get_by_role("button", name="Conversations").click()
        expect(self.list).to_be_visible()

    def new_chat(self) -> None:
        self.page.locator("#conversation-new").click()

    def choose(self, entry: str) -> None:
        """An entry of the bar's menu."""
        self.page.get_by_role("button", name="More about this conversation").click()
        self.page.get_by_role("menuitem", name=entry).click()

    def row(self, title: str) -> Locator:
        return self.list.locator(".row").filter(has_text=title)

    def row_tool(self, title: str, label: str) -> None:
        self.row(title).hover()
        self.row(title).get_by_role("button", name=f"{label}: {title}").click()

    def answer_question(self, button: str) -> None:
        self.page.locator(".deck-dialog").get_by_role("button", name=button).click()


@pytest.fixture
def library(page: DeckPage) -> Library:
    page.page.evaluate("fetch('/api/conversations', {method: 'DELETE'})")
    return Library(page)


def test_conversations_are_listed_found_renamed_and_deleted(
    library: Library, app: DeckApp, open_page: OpenPage
) -> None:
    deck = library.deck
    library.open_list()
    expect(library.list).to_contain_text("Nothing here yet")
    for text in ("Apples and pears", "Bananas", "Cherries"):
        deck.ask(text)
        expect(library.title).to_have_text(text)
        library.new_chat()
        expect(deck.questions).to_have_count(0)
    expect(library.rows).to_have_text(["Cherries", "Bananas", "Apples and pears"])
    expect(library.list.locator("h4")).to_have_text(["Today"])

    library.row("Apples").get_by_role("button").first.click()
    expect(deck.questions).to_have_text(re.compile("Apples and pears"))
    expect(library.row("Apples").locator("[aria-current=true]")).to_be_visible()

    search = library.page.get_by_role("searchbox", name="Search conversations")
    search.fill("banan")
    expect(library.rows).to_have_text(["Bananas"])
    search.fill("no such words")
    expect(library.list).to_contain_text("Nothing found")
    search.fill("")
    expect(library.rows).to_have_count(3)

    library.title.click()
    field = library.page.get_by_role("textbox", name="Title")
    field.fill("Fruit <b>salad</b>")
    field.press("Enter")
    expect(library.row("Fruit <b>salad</b>")).to_be_visible()
    library.choose("Rename")
    field.fill("Fruit <i>salad</i>")
    field.press("Enter")
    expect(library.title).to_have_text("Fruit <i>salad</i>")
    library.row_tool("Bananas", "Rename")
    field.fill("Not kept")
    field.press("Escape")
    library.row_tool("Bananas", "Rename")
    field.fill("Yellow")
    field.press("Enter")
    expect(library.rows.filter(has_text="Yellow")).to_be_visible()
    expect(library.row("Yellow").get_by_role("button").first).to_be_focused()

    library.row_tool("Yellow", "Delete for good")
    library.answer_question("Leave it")
    expect(library.rows).to_have_count(3)
    library.row_tool("Yellow", "Delete for good")
    library.answer_question("Delete for good")
    expect(library.rows).to_have_count(2)

    deck.load()
    expect(library.list).to_be_visible()
    expect(library.title).to_have_text("Fruit <i>salad</i>")
    expect(deck.questions).to_have_text(re.compile("Apples and pears"))
    library.page.get_by_role("button", name="Delete all").click()
    library.answer_question("Delete for good")
    expect(library.rows).to_have_count(0)
    expect(deck.questions).to_have_count(0)


def test_temporary_chat_export_and_deletion(library: Library, tmp_path: Path) -> None:
    deck = library.deck
    library.choose("Temporary chat")
    expect(library.page.locator("#conversation-bar .chip")).to_have_text("temporary")
    deck.ask("Between us")
    library.open_list()
    expect(library.list).to_contain_text("Nothing here yet")
    library.page.get_by_role("button", name="Close").click()
    library.new_chat()
    expect(library.page.locator("#conversation-bar .chip")).to_have_count(0)

    deck.ask("For the archive")
    for entry, ending in (("Export as Markdown", ".md"), ("Export as JSON", ".json")):
        with library.page.expect_download() as download:
            library.choose(entry)
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        assert path.suffix == ending
        assert "For the archive" in path.read_text(encoding="utf-8")
    library.choose("Delete for good")
    library.answer_question("Delete for good")
    expect(deck.questions).to_have_count(0)
    library.open_list()
    expect(library.list).to_contain_text("Nothing here yet")


def test_list_that_cannot_be_read_says_so_and_tries_again(library: Library) -> None:
    library.deck.expected_errors.append("Failed to load resource")
    library.page.route("**/api/conversations?*", lambda route: route.abort())
    library.open_list()
    expect(library.list.get_by_role("alert")).to_contain_text("vLLM Deck does not answer")
    with library.page.expect_request("**/api/conversations?*"):
        library.page.get_by_role("button", name="Try again").click()
    library.page.unroute("**/api/conversations?*")
    library.page.get_by_role("button", name="Close").click()
    library.open_list()
    expect(library.list).to_contain_text("Nothing here yet")


def test_list_lies_over_the_chat_on_a_phone(app: DeckApp, open_page: OpenPage) -> None:
    app.start("quick")
    library = Library(open_page(app, model="quick", size=(390, 844), locale="zh-CN"))
    library.deck.ask("你好，世界")
    library.page.get_by_role("button", name="对话列表").click()
    expect(library.row("你好")).to_be_visible()
    assert library.deck.wider_than_the_window() == []
    library.page.keyboard.press("Escape")
    expect(library.list).to_be_hidden()
    expect(library.page.get_by_role("button", name="对话列表")).to_be_focused()
    library.page.get_by_role("button", name="对话列表").click()
    library.row("你好").get_by_role("button").first.click()
    expect(library.list).to_be_hidden()
    library.deck.send("word " * 5000)
    expect(library.deck.status).to_contain_text("而模型的上下文为 4,096。请清空对话、缩短消息")


def test_presets_of_system_prompts(library: Library) -> None:
    deck, page = library.deck, library.page
    box = page.locator("#system-prompt textarea")
    presets = page.get_by_role("button", name="Presets")
    box.fill("You are a pirate.")
    presets.click()
    expect(page.locator("#preset-menu")).to_contain_text("No presets yet")
    page.get_by_role("textbox", name="Name of the preset").fill("Pirate")
    page.get_by_role("textbox", name="Name of the preset").press("Enter")
    expect(page.get_by_role("menuitemradio", name="Pirate")).to_be_visible()
    page.keyboard.press("Escape")

    deck.ask("Ahoy")
    library.new_chat()
    box.fill("You are a poet.")
    deck.ask("Roses")
    library.open_list()
    library.row("Ahoy").get_by_role("button").first.click()
    expect(box).to_have_value("You are a pirate.")
    library.row("Roses").get_by_role("button").first.click()
    expect(box).to_have_value("You are a poet.")
    presets.click()
    page.get_by_role("menuitemradio", name="Pirate").click()
    expect(box).to_have_value("You are a pirate.")

    box.fill("You are a captain.")
    presets.click()
    page.get_by_role("textbox", name="Name of the preset").fill("Pirate")
    page.get_by_role("button", name="Replace").click()
    expect(page.get_by_role("menuitemradio", name="Pirate")).to_have_attribute("aria-checked", "true")
    expect(page.get_by_role("menuitemradio", name="Pirate")).to_have_attribute("title", "You are a captain.")
    page.get_by_role("button", name="Delete: Pirate").click()
    library.answer_question("Delete")
    presets.click()
    expect(page.locator("#preset-menu")).to_contain_text("No presets yet")


def test_chat_is_shown_as_code(library: Library) -> None:
    page = library.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    library.deck.set_slider("temperature", 0.35)
    page.locator("#system-prompt textarea").fill("Be $hort")
    library.deck.text.fill("It's <b>me</b>")
    library.choose("Show as code")
    code = page.locator("#code-panel pre")
    expect(code).to_contain_text(f"curl -N {library.deck.url.rstrip('/')}/v1/chat/completions")
    expect(code).to_contain_text("It's <b>me</b>")
    expect(code).to_contain_text('"temperature": 0.35')
    expect(code).to_contain_text("Be $hort")
    page.get_by_role("tab", name="curl").press("ArrowRight")
    expect(code).to_contain_text("from openai import OpenAI")
    page.locator(".deck-dialog").get_by_role("button", name="Copy").click()
    expect(page.locator(".deck-dialog").get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith("from openai import OpenAI")
    page.get_by_role("tab", name="vllm serve").click()
    expect(code).to_contain_text("vllm serve")
    page.keyboard.press("Escape")
    expect(page.locator(".deck-dialog")).to_have_count(0)
    expect(library.deck.text).to_have_value("It's <b>me</b>")
    library.choose("Show as code")
    page.locator(".deck-dialog").get_by_role("button", name="Close").click()
    expect(page.locator(".deck-dialog")).to_have_count(0)
