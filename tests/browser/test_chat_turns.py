"""What can be done with the turns of a conversation: alternatives, Edit, Branch, Copy, another try."""

from __future__ import annotations

import re

import pytest
from deck_app import DeckApp, eventually
from playwright.sync_api import expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]


def open_conversation(page: DeckPage, conversation: str) -> None:
    """As the list of conversations does."""
    page.page.evaluate("async (id) => (await import('/deck/conversation.js')).openConversation(id)", conversation)


def conversation_of(page: DeckPage) -> str:
    found: str = page.page.evaluate("sessionStorage.getItem('deck-conversation')")
    return found


def test_earlier_answers_and_questions_stay_as_alternatives(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("echo", echo=1)
    app.start("echo")
    page = open_page(app, model="echo")
    page.ask("First")
    page.ask("Second")
    page.set_slider("temperature", 1.5)
    page.regenerate()
    expect(page.answers.last).to_contain_text('"temperature": 1.5')
    page.wait_until_idle()
    expect(page.questions).to_have_text(["First", "Second"])
    # The answer that was replaced is not part of what the model gets to see.
    assert page.answers.last.inner_text().count('"role": "assistant"') == 1
    expect(page.counters).to_have_text(["2/2"])
    page.tool("The one before").click()
    expect(page.counters).to_have_text(["1/2"])
    expect(page.answers.last).not_to_contain_text('"temperature": 1.5')
    expect(page.tool("The one before")).to_be_disabled()

    # Any earlier question can be edited; what came after the old one comes back with it.
    page.tool("Edit").first.click()
    expect(page.text).to_have_value("First")
    expect(page.questions).to_have_count(0)
    page.text.press("Escape")
    expect(page.questions).to_have_text(["First", "Second"])
    expect(page.text).to_have_value("")
    page.text.fill("What I was about to say")
    page.tool("Edit").first.click()
    page.text.fill("Another first")
    page.text.press("Enter")
    expect(page.text).to_have_value("What I was about to say")
    expect(page.questions).to_have_text(["Another first"])
    expect(page.counters).to_have_text(["2/2"])
    page.load()
    expect(page.questions).to_have_text(["Another first"])
    page.tool("The one before").click()
    expect(page.questions).to_have_text(["First", "Second"])
    expect(page.counters).to_have_text(["1/2", "2/2"])  # with the newest of what follows it
    page.tool("The next one").first.click()
    expect(page.questions).to_have_text(["Another first"])
    expect(page.tool("The next one")).to_be_disabled()


def test_arrow_up_branch_and_copy(page: DeckPage) -> None:
    page.ask("One")
    page.ask("Tow")
    page.text.press("ArrowUp")
    expect(page.text).to_have_value("Tow")
    expect(page.questions).to_have_text(["One"])
    page.ask("Two")
    expect(page.questions).to_have_text(["One", "Two"])

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.tool("Copy the answer").last.click()
    eventually(lambda: page.page.evaluate("navigator.clipboard.readText()") == "Two", "the answer is in the clipboard")
    page.page.keyboard.press("ArrowRight")  # within the toolbar
    expect(page.tool("Answer again").last).to_be_focused()

    before = conversation_of(page)
    with page.page.expect_response(re.compile("/branch$")) as branched:
        page.tool("Branch off here").first.click()
    assert branched.value.status == 201, branched.value.text()
    expect(page.questions).to_have_text(["One"])
    assert conversation_of(page) != before
    page.ask("Three")
    expect(page.questions).to_have_text(["One", "Three"])
    open_conversation(page, before)
    expect(page.questions).to_have_text(["One", "Two"])


def test_an_answer_goes_on_while_another_conversation_is_looked_at(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("steady", tokens_per_second=30, answer_tokens=60)
    app.start("steady")
    page = open_page(app, model="steady")
    first = conversation_of(page)
    page.send("Tell me")
    page.wait_for_live_text()
    page.text.fill("My draft here")
    page.page.evaluate("import('/deck/conversation.js').then((module) => module.newChat())")
    expect(page.questions).to_have_count(0)
    expect(page.text).to_have_value("")
    expect(page.button("send")).to_be_visible()
    open_conversation(page, first)
    expect(page.questions).to_have_text(["Tell me"])
    expect(page.text).to_have_value("My draft here")
    expect(page.answers).to_contain_text(["word59"])
    expect(page.answers).to_have_text([" ".join(f"word{i}" for i in range(60))])


def test_broken_answer_keeps_its_text_and_can_be_retried(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("mortal", tokens_per_second=20, answer_tokens=1000)
    app.start("mortal")
    page = open_page(app, model="mortal")
    page.send("Tell me a lot")
    page.wait_for_live_text("word5")
    app.post("/api/servers/mortal/stop")
    expect(page.notes).to_contain_text(["was stopped in the middle of the answer"])
    expect(page.answers).to_contain_text(["word5"])
    page.page.get_by_role("button", name="Try again").click()
    expect(page.questions).to_have_text(["Tell me a lot"])
    page.wait_for_live_text("word5")
    page.button("stop").click()
    expect(page.notes).to_have_text(["stopped"])
    expect(page.counters).to_have_text(["2/2"])


def test_two_tabs_on_one_conversation(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("slow", tokens_per_second=20, answer_tokens=2000)
    app.start("slow")
    page = open_page(app, model="slow")
    page.send("In the first tab")
    page.wait_for_live_text()
    second = open_page(app, model="slow", context=page.context)
    open_conversation(second, conversation_of(page))
    second.send("In the second tab")
    expect(second.status).to_contain_text("being answered already")
    expect(second.text).to_have_value("In the second tab")
    page.button("stop").click()
    page.wait_until_idle()
    for tab in (page, second):
        expect(tab.questions).to_have_text(["In the first tab"])
        expect(tab.notes).to_have_text(["stopped"])
    second.text.press("Enter")
    second.wait_for_live_text()
    second.button("stop").click()
    for tab in (page, second):
        expect(tab.questions).to_have_text(["In the first tab", "In the second tab"])


HOSTILE = """\
before <script>window.hacked = 1</script> <img src=x onerror="window.hacked = 2"> <svg onload="window.hacked = 3"></svg>

[a link](javascript:window.hacked=4) <a href="javascript:window.hacked=5">another</a>
<iframe srcdoc="<script>parent.hacked = 6</script>"></iframe>

`<b>code</b>` and 1 < 2 > 0 after"""


def test_nothing_in_a_text_ever_runs(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("hostile", "reasoning-parser: qwen3\n", parrot=1, reasoning_tokens=1, tokens_per_second=20)
    app.start("hostile")
    page = open_page(app, model="hostile")
    page.expected_errors.append("404")  # the picture "x" that the hostile text asks for
    page.page.evaluate("window.hacked = 0")
    page.send(HOSTILE)
    page.live.get_by_role("button", name=re.compile("Thinking")).click()
    expect(page.page.locator("#live-thinking")).to_contain_text("1 < 2 > 0 after")
    expect(page.page.locator("#live-answer")).to_contain_text("a link")  # while it comes
    page.wait_until_idle()
    expect(page.answers).to_have_count(2)  # the thoughts, and the answer
    for message in (page.questions.last, *page.answers.all()):
        expect(message).to_contain_text("before")
        expect(message).to_contain_text("1 < 2 > 0 after")
        expect(message.locator("code")).to_have_text("<b>code</b>")
        for link in message.locator("a").all():
            link.click()
    page.wait_until_built()
    assert page.page.evaluate("window.hacked") == 0
    forbidden = "#conversation :is(script, iframe, [onerror], [onload], [href^='javascript'])"
    assert not page.page.locator(forbidden).count()
