"""An answer while it comes, its move among the turns, what is attached to a question, and the keys."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from deck_app import DeckApp, eventually
from playwright.sync_api import Route, expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
WATCH = """(first) => {
  window.places = [];
  const visible = (e) => e.checkVisibility() && e.getBoundingClientRect().height > 0;
  const find = (selector) => [...document.querySelectorAll(selector)].filter(visible).at(-1);
  const look = () => {
    const question = find('#turns .user-row .message, #live-question').getBoundingClientRect();
    const lines = [...document.querySelectorAll('#turns .bot-row .md > p, #live-answer .md > p')];
    const answer = lines.filter(visible).find((p) => p.innerText.startsWith(first));
    const fold = find('#turns button.fold, #live button.fold');
    const place = (e) => e && [e.getBoundingClientRect().top - question.bottom, e.getBoundingClientRect().left];
    const style = answer && getComputedStyle(answer);
    const now = answer && [place(fold), place(answer), style.fontSize, style.lineHeight, style.color];
    if (now && JSON.stringify(now) !== JSON.stringify(window.places.at(-1))) window.places.push(now);
    requestAnimationFrame(look);
  };
  look();
}"""


def test_thoughts_are_folded_and_nothing_jumps_when_the_answer_moves_up(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model(
        "thinker", "reasoning-parser: qwen3\n", reasoning_tokens=30, answer_tokens=40, tokens_per_second=40
    )
    app.start("thinker")
    page = open_page(app, model="thinker")
    page.send("Think")
    fold = page.live.get_by_role("button", name=re.compile(r"Thinking … [\d.]+ s"))
    expect(fold).to_have_attribute("aria-expanded", "false")
    fold.press("Enter")
    expect(page.live).to_contain_text("thought5")
    expect(page.live.get_by_role("button", name=re.compile(r"Thought for [\d.]+ s"))).to_be_visible()
    page.page.evaluate(WATCH, "word0")
    page.wait_until_idle()
    expect(page.answers.last).to_contain_text("word39")
    expect(page.live).to_be_hidden()
    expect(page.page.locator("#turns")).to_contain_text("thought29")
    places = page.page.evaluate("window.places")
    assert len(places) == 1, "the answer is drawn in another place or style after its move"
    page.load()  # folded again, and the next one opens as the last one was
    done = page.page.locator("#turns").get_by_role("button", name=re.compile(r"Thought for [\d.]+ s"))
    expect(done).to_have_attribute("aria-expanded", "false")
    expect(page.answers.first).to_be_hidden()
    done.click()
    expect(page.answers.first).to_contain_text("thought29")


CUTS = """async ([parts]) => {
  const { blocksOf, nextCut } = await import('/deck/blocks.js');
  const text = parts.join('');
  // As it came: cut as soon as it could be.
  const live = []; let from = 0;
  for (let end = 1; end <= text.length; end += 7) {
    for (let cut; (cut = nextCut(text.slice(0, end), from)) != null; from = cut) live.push(text.slice(from, cut));
  }
  return [blocksOf(text), [...live, text.slice(from)]];
}"""


def test_long_answer_is_cut_between_blocks_only(page: DeckPage) -> None:
    prose = "Words and words. " * 130 + "\n\n"
    code = "```python\n" + "x = 1\n\n" * 400 + "```\n\n"
    items = "".join(f"{i}. item\n\n   more of it\n\n" for i in range(1, 150))
    formula = "$$\n" + "a + b \\\\\n\n" * 300 + "$$\n\n"
    parts = [prose, prose, code, "After the code.\n\n", prose, items, "After the list.\n\n", prose, formula, "The end."]
    whole, live = page.page.evaluate(CUTS, [parts])
    assert "".join(whole) == "".join(parts)
    assert live == whole, "the same text is cut in the same places while it comes"
    assert len(whole) > 4
    for block in whole:
        assert block.count("```") % 2 == 0
        assert block.count("$$") % 2 == 0
        assert not re.match(r"\d+\. |\s", block), "a list was cut"


def test_long_answer_is_there_once_and_in_order(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("lengthy", "max-model-len: 32768\n", parrot=1, tokens_per_second=300)
    app.start("lengthy")
    page = open_page(app, model="lengthy")
    page.set_slider("max_tokens", 8000)
    text = "\n\n".join(f"Paragraph {i} " + "and so on " * 20 for i in range(40))
    page.ask(text)
    shown = " ".join(page.answers.all_inner_texts())
    assert re.findall(r"Paragraph (\d+)", shown) == [str(i) for i in range(40)]
    page.load()
    expect(page.questions).to_have_count(1)
    eventually(lambda: " ".join(page.answers.all_inner_texts()) == shown, "the same after a reload")
    expect(page.tool("Copy the answer")).to_have_count(1)


def with_abilities(page: DeckPage, abilities: dict[str, object]) -> None:
    """As if the app said so of every model."""

    def answer(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | {"abilities": abilities})

    page.page.route(re.compile("/api/models/[^/]+$"), answer)
    page.load()


def test_images_go_with_a_question_where_the_model_can_see(app: DeckApp, open_page: OpenPage, tmp_path: Path) -> None:
    weights = app.place.weights.with_name("seeing")
    weights.mkdir()
    (weights / "config.json").write_text(json.dumps({"max_position_embeddings": 4096, "vision_config": {"depth": 1}}))
    file = app.place.models_dir / "seer.yaml"
    file.write_text(f"model: {weights}\nserved-model-name: seer\n")
    file.with_suffix(".env").write_text("FAKE_VLLM_PARROT='1'\n")
    app.start("seer")
    page = open_page(app, model="seer")
    picture = tmp_path / "picture.png"
    picture.write_bytes(PNG)
    thumbs = page.page.locator("#chat-attached img")
    paste = """([kind, picture]) => {
      const data = new DataTransfer();
      const bytes = Uint8Array.from(atob(picture), (c) => c.charCodeAt(0));
      data.items.add(new File([bytes], 'pasted.png', { type: 'image/png' }));
      const target = document.querySelector('#chat-text textarea');
      const event = kind === 'paste'
        ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })
        : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
      target.dispatchEvent(event);
    }"""
    as_text = base64.b64encode(PNG).decode()
    with page.page.expect_file_chooser() as chooser:
        page.button("attach").click()
    chooser.value.set_files(picture)
    page.page.evaluate(paste, ["paste", as_text])
    expect(thumbs).to_have_count(2)
    page.page.evaluate(paste, ["drop", as_text])
    expect(thumbs).to_have_count(3)
    page.page.get_by_role("button", name="Remove this image").first.click()
    expect(thumbs).to_have_count(2)
    with page.page.expect_request("**/api/chat") as asked:
        page.send("What is this?")
    assert len(asked.value.post_data_json["images"]) == 2
    page.wait_until_idle()
    expect(thumbs).to_have_count(0)
    shown = page.page.locator("#turns .user-row .turn-images img")
    expect(shown).to_have_count(2)
    page.load()
    expect(shown).to_have_count(2)
    eventually(lambda: shown.first.evaluate("image => image.naturalWidth") == 1, "the kept image is shown")

    eventually(lambda: "quick" in " ".join(page.choices()), "the model that cannot see is offered")
    page.pick("quick")
    expect(page.button("attach")).to_have_class(re.compile("cannot"))
    page.page.evaluate(paste, ["paste", as_text])
    expect(page.status).to_contain_text("quick cannot see images")
    page.page.locator("#conversation-new").click()
    expect(page.status).to_have_text("")
    page.button("attach").click()
    expect(page.status).to_contain_text("quick cannot see images")
    expect(thumbs).to_have_count(0)


def test_thinking_switch_brings_the_sampling_of_its_mode(page: DeckPage) -> None:
    expect(page.page.locator("#thinking-switch")).to_be_hidden()
    recommended = {"on": {"temperature": 0.6, "top_p": 0.95}, "off": {"temperature": 0.7, "top_p": 0.8}}
    with_abilities(page, {"thinking": {"switch": True, "recommended": recommended}, "vision": None})
    page.set_slider("temperature", 1.25)
    for mode, top_p, thinking in (("off", "0.8", False), ("on", "0.95", True)):
        page.page.get_by_role("radio", name=mode, exact=True).click()
        expect(page.slider("top_p")).to_have_value(top_p)
        expect(page.slider("temperature")).to_have_value("1.25")  # what somebody has moved stays
        with page.page.expect_request("**/api/chat") as asked:
            page.ask("Hello")
        assert asked.value.post_data_json["thinking"] is thinking
    page.page.keyboard.press("Tab")
    page.page.get_by_role("radio", name="on", exact=True).press("ArrowLeft")
    expect(page.page.get_by_role("radio", name="auto")).to_be_focused()
    page.page.get_by_role("button", name="model's defaults").click()
    expect(page.slider("temperature")).to_have_value("0.7")


def test_enter_of_an_input_method_sends_nothing(page: DeckPage) -> None:
    page.text.fill("nihao")
    page.text.evaluate(
        """(box) => {
          const enter = { key: 'Enter', code: 'Enter', isComposing: true, bubbles: true };
          for (const kind of ['keydown', 'keypress']) box.dispatchEvent(new KeyboardEvent(kind, enter));
        }"""
    )
    expect(page.text).to_have_value("nihao")
    assert page.ask("nihao") == "nihao"
    expect(page.questions).to_have_count(1)


def test_status_line_tells_what_goes_on(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("steady", tokens_per_second=30, answer_tokens=60)
    app.start("steady")
    page = open_page(app, model="steady")
    page.page.evaluate(
        """() => {
          window.told = [];
          const place = document.getElementById('chat-announced');
          new MutationObserver(() => window.told.push(place.textContent)).observe(place, { childList: true });
        }"""
    )
    page.send("Go")
    expect(page.status).to_contain_text(re.compile(r"first token \d+ ms"))
    page.wait_until_idle()
    expect(page.status).to_contain_text("60 tokens")
    told = page.page.evaluate("window.told")
    assert "The answer is coming" in told
    assert len(told) < 8, "a screen reader would read each figure out"


def test_button_leads_back_to_the_end(app: DeckApp, page: DeckPage) -> None:
    button = page.button("to-end")
    expect(button).to_be_hidden()
    page.ask("\n\n".join(f"Line {i}" for i in range(60)))
    eventually(lambda: page.scroll[1] < 2, "the end is in view")
    page.turn_wheel(-600)
    expect(button).to_be_visible()
    button.click()
    eventually(lambda: page.scroll[1] < 2, "the end is in view")
    expect(button).to_be_hidden()
