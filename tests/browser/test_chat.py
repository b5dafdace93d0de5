"""A conversation as the person at the keyboard sees it."""

from __future__ import annotations

import re

import pytest
from deck_app import DeckApp, eventually
from playwright.sync_api import expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def slow(app: DeckApp, open_page: OpenPage) -> DeckPage:
    """The page with a model that says a long text, 20 words a second."""
    app.place.add_model("slow", tokens_per_second=20, answer_tokens=2000)
    app.start("slow")
    return open_page(app, model="slow")


def running_requests(app: DeckApp, model: str) -> int | None:
    metrics = next(s for s in app.get("/api/snapshot")["servers"] if s["name"] == model)["metrics"]
    return metrics and metrics["num_requests_running"]


def test_answer_streams_and_is_there_once(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("steady", tokens_per_second=30, answer_tokens=60)
    app.start("steady")
    page = open_page(app, model="steady")
    page.send("How are you?")
    expect(page.questions).to_have_text(["How are you?"])
    expect(page.text).to_have_value("")
    page.wait_for_live_text("word0 word1")
    begun = len(page.live.inner_text())
    page.page.wait_for_function("n => document.querySelector('#live-answer').innerText.length > n", arg=begun)
    page.wait_until_idle()
    expect(page.answers).to_have_count(1)
    expect(page.answers).to_have_text([" ".join(f"word{i}" for i in range(60))])
    expect(page.live).to_be_hidden()
    expect(page.status).to_contain_text("60 tokens")
    expect(page.status).to_contain_text("tok/s")
    expect(page.status).to_contain_text("/ 2,048")


def test_answer_never_leaves_the_view_while_it_moves_up(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("brief", tokens_per_second=60, answer_tokens=120)
    app.start("brief")
    page = open_page(app, model="brief", own=True)
    # A slow computer: drawing the turns takes longer than a frame.
    page.context.new_cdp_session(page.page).send("Emulation.setCPUThrottlingRate", {"rate": 6})
    page.send("Go")
    page.wait_for_live_text()
    # In each picture that is painted the last words seen so far are there, in one place or the other.
    page.page.evaluate(
        """() => {
          const area = document.getElementById('conversation');
          window.seen = []; window.counts = [];
          const look = () => {
            const shown = (e) => e && e.checkVisibility() ? e.innerText : '';
            const bot = [...document.querySelectorAll('#turns .message.bot')].map(shown).join('');
            const text = bot + shown(document.getElementById('live-answer'));
            window.seen.push((text.match(/word\\d+/g) ?? []).length);
            requestAnimationFrame(look);
          };
          requestAnimationFrame(look);
        }"""
    )
    page.wait_until_idle()
    expect(page.answers).to_contain_text(["word119"])
    page.page.wait_for_function("window.seen.at(-1) === 120")
    seen: list[int] = page.page.evaluate("window.seen")
    assert seen == sorted(seen), "the text shrank for a moment"
    assert max(seen) == 120, "the answer was there twice"


def test_markdown_code_and_formulas_are_drawn(page: DeckPage) -> None:
    table = "| a | b |\n|---|---|\n| 1 | 2 |"
    page.ask(f"**bold**\n\n1. one\n2. two\n\n{table}\n\n```python\nprint('x')\n```\n\n$$x^2$$\n\n\\(y_1\\)")
    answer = page.answers.last
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator("ol li")).to_have_count(2)
    expect(answer.locator("table td")).to_have_count(2)
    expect(answer.locator("pre code")).to_contain_text("print('x')")
    expect(answer.locator(".katex")).to_have_count(2)


def test_text_that_looks_like_html_is_readable(page: DeckPage) -> None:
    assert "Use List<String> and <div> here" in page.ask("Use `List<String>` and `<div>` here").replace("\n", " ")


def test_stop_keeps_the_text_and_frees_vllm(app: DeckApp, slow: DeckPage) -> None:
    slow.send("Tell me a lot")
    slow.wait_for_live_text("word5")
    eventually(lambda: running_requests(app, "slow") == 1, "the request is counted")
    slow.button("stop").click()
    slow.wait_until_idle()
    expect(slow.answers).to_contain_text(["word5"])
    expect(slow.notes).to_have_text(["stopped"])
    eventually(lambda: running_requests(app, "slow") == 0, "vLLM has dropped the request")


HOLD_BACK_THE_ANSWER = """() => {
  const ask = window.fetch;
  window.fetch = async (path, options) => {
    const response = await ask(path, options);
    if (path !== '/api/chat') return response;
    const gone = (reject) => options.signal.addEventListener('abort', () => reject(new DOMException('', 'AbortError')));
    const reader = { read: () => new Promise((_, reject) => gone(reject)) };
    return { ok: true, body: { pipeThrough: () => ({ getReader: () => reader }) } };
  };
}"""
"""As if the first words were still on their way to the page."""


def test_words_that_were_on_their_way_when_it_was_stopped_are_shown(app: DeckApp, slow: DeckPage) -> None:
    slow.page.evaluate(HOLD_BACK_THE_ANSWER)
    slow.send("Tell me a lot")
    eventually(lambda: running_requests(app, "slow") == 1, "vLLM answers")
    expect(slow.answers).to_have_count(0)
    slow.button("stop").click()
    slow.wait_until_idle()
    expect(slow.answers).to_contain_text(["word0"])
    expect(slow.notes).to_have_text(["stopped"])
    shown = slow.answers.inner_text()
    slow.load()
    expect(slow.questions).to_have_text(["Tell me a lot"])
    expect(slow.answers).to_have_text(shown)


def test_escape_stops_too(slow: DeckPage) -> None:
    slow.send("Tell me a lot")
    slow.wait_for_live_text("word3")
    slow.page.keyboard.press("Escape")
    slow.wait_until_idle()
    expect(slow.answers).to_contain_text(["word3"])


def test_reload_brings_the_conversation_back(page: DeckPage) -> None:
    page.ask("One")
    page.ask("**Two**")
    page.load()
    expect(page.questions).to_have_text(["One", "Two"])
    expect(page.answers).to_have_text(["One", "Two"])
    page.ask("Three")
    expect(page.answers).to_have_text(["One", "Two", "Three"])


def test_reload_in_mid_answer_keeps_what_had_come(slow: DeckPage) -> None:
    slow.send("Tell me a lot")
    slow.wait_for_live_text("word5")
    slow.load()
    expect(slow.questions).to_have_text(["Tell me a lot"])
    expect(slow.answers).to_contain_text(["word5"])


def test_two_tabs_with_two_models_do_not_mix(app: DeckApp, page: DeckPage, open_page: OpenPage) -> None:
    app.place.add_model("second-one", tokens_per_second=20, answer_tokens=60)
    app.start("second-one")
    page.ask("In the first tab")
    second = open_page(app, model="second-one", context=page.context)
    expect(second.questions).to_have_count(0)
    second.send("In the second tab")
    second.wait_for_live_text()
    assert page.ask("First again") == "First again"  # while the other is being answered
    second.wait_until_idle()
    expect(second.answers).to_contain_text(["word59"])
    for tab, texts in ((page, ["In the first tab", "First again"]), (second, ["In the second tab"])):
        expect(tab.questions).to_have_text(texts)
        tab.load()
        expect(tab.questions).to_have_text(texts)
    expect(page.picker).to_have_value(re.compile("quick"))
    expect(second.picker).to_have_value(re.compile("second-one"))


def test_a_new_tab_after_the_old_one_was_closed_goes_on(app: DeckApp, page: DeckPage, open_page: OpenPage) -> None:
    page.ask("Remember me")
    page.page.close()
    again = open_page(app, model="quick", context=page.context)
    expect(again.questions).to_have_text(["Remember me"])


def test_message_to_a_stopped_model_starts_it(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("late", ready_after=4, parrot=1)
    page = open_page(app, model="late")
    expect(page.page.locator("#conversation")).to_have_attribute("data-hint", re.compile("Sending a message starts it"))
    page.send("Are you there?")
    page.wait_for_live_text(re.compile("Starting late: .* s"))
    expect(page.chip).to_have_text("starting")
    page.wait_until_idle()
    expect(page.answers).to_have_text(["Are you there?"])
    expect(page.chip).to_have_text("ready")


def test_failed_start_says_why_and_gives_the_message_back(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("broken", ready_after=1, exit_code=1)
    page = open_page(app, model="broken")
    page.send("My long message")
    expect(page.status).to_contain_text("was killed from outside while it was loading")
    expect(page.text).to_have_value("My long message")
    expect(page.questions).to_have_count(0)
    expect(page.chip).to_have_text("failed")


def test_too_long_a_conversation_keeps_message_and_turns(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("small", "max-model-len: 600\n", parrot=1)
    app.start("small")
    page = open_page(app, model="small")
    page.ask("Short")
    text = "word " * 700
    page.send(text)
    expect(page.status).to_contain_text("context")
    expect(page.status).to_have_class(re.compile("bad"))
    expect(page.text).to_have_value(text.strip())
    expect(page.questions).to_have_text(["Short"])


def test_server_killed_in_mid_answer_keeps_the_text(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("fragile", tokens_per_second=20, answer_tokens=500, crash_after=40)
    app.start("fragile")
    page = open_page(app, model="fragile")
    page.send("Tell me a lot")
    expect(page.status).to_contain_text("The answer broke off.")
    expect(page.answers).to_contain_text(["word10"])
    expect(page.notes).to_contain_text(["killed from outside while it served"])
    expect(page.chip).to_have_text("failed")
    page.load()
    expect(page.answers).to_contain_text(["word10"])


def test_empty_message_does_nothing(page: DeckPage) -> None:
    page.send("   \n ")
    page.button("send").click()
    page.text.fill("Real")
    page.button("send").click()
    page.wait_until_idle()
    expect(page.questions).to_have_text(["Real"])
    expect(page.answers).to_have_text(["Real"])


def test_enter_twice_sends_once(slow: DeckPage) -> None:
    slow.text.fill("Once")
    slow.text.press("Enter")
    slow.text.press("Enter")
    slow.wait_for_live_text()
    slow.text.press("Enter")
    slow.button("stop").click()
    slow.wait_until_idle()
    expect(slow.questions).to_have_text(["Once"])


def test_shift_enter_breaks_the_line(page: DeckPage) -> None:
    page.text.fill("one")
    page.text.press("Shift+Enter")
    page.text.press_sequentially("two")
    expect(page.text).to_have_value("one\ntwo")
    expect(page.questions).to_have_count(0)
    page.text.press("Enter")
    expect(page.questions.last.locator("br")).to_have_count(1)


def test_text_typed_during_an_answer_stays(slow: DeckPage) -> None:
    slow.send("Tell me a lot")
    slow.wait_for_live_text("word3")
    slow.text.fill("And then?")
    slow.text.press("Enter")
    slow.button("stop").click()
    expect(slow.page.locator("#chat-pane")).not_to_have_class(re.compile(r"\bbusy\b"))
    expect(slow.text).to_have_value("And then?")
    expect(slow.questions).to_have_text(["Tell me a lot"])
