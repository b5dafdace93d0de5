"""The log on the Servers tab: live, searched, with its levels; of this run, the one before, and the app's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from deck_app import DeckApp, Place
from playwright.sync_api import Locator, expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage
from server_manager.log_rotation import rotate

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

INFO = "(APIServer pid=7) INFO 11-22 10:09:42 [loggers.py:271] Engine 000: line {n}, running: 1 reqs, waiting: 0 reqs\n"
WARNING = "(APIServer pid=7) WARNING 11-22 10:09:42 [x.py:1] the cache is nearly full\n"
ERROR = "(EngineCore pid=8) ERROR 11-22 10:09:43 [core.py:1] Traceback (most recent call last):\n"
TOKEN = "hf_" + "AbCdEfGhIj" * 3


def log_of(place: Place, name: str, lines: int) -> Path:
    """A log with a warning after line 10, and a token."""
    place.add_model(name)
    path = place.state_dir / "logs" / f"{name}.log"
    path.parent.mkdir(exist_ok=True)
    text = [INFO.format(n=n) for n in range(lines)]
    text.insert(10, WARNING)
    text.insert(11, f"the token is {TOKEN}\n")
    path.write_text("vLLM Deck 2026-11-25T04:28:14+00:00: vllm serve m\n" + "".join(text))
    return path


def open_log(page: DeckPage, name: str) -> Locator:
    page.open_tab("servers")
    page.press(name, "Log")
    return page.page.locator("#server-log pre")


def lines_in_the_page(page: DeckPage) -> int:
    return page.page.locator("#server-log .ln").count()


def at_end(page: DeckPage) -> None:
    page.page.wait_for_function(
        """() => {
          const box = document.querySelector('#server-log pre');
          return box.scrollHeight > box.clientHeight && box.scrollHeight - box.scrollTop - box.clientHeight < 5;
        }"""
    )


def test_long_log_is_followed_until_somebody_scrolls_up(app: DeckApp, open_page: OpenPage) -> None:
    path = log_of(app.place, "endless", 20_000)
    page = open_page(app, model="endless")
    log = open_log(page, "endless")
    expect(log).to_contain_text("line 19999,")
    at_end(page)
    assert lines_in_the_page(page) <= 3_200, "not all of it is in the page"
    asked = len([url for url in page.requests if "/logs?" in url])
    with path.open("a") as file:
        file.writelines(INFO.format(n=n) for n in range(20_000, 22_000))
    expect(log).to_contain_text("line 21999,")
    at_end(page)
    assert lines_in_the_page(page) <= 3_200
    assert all("since=" in url for url in [url for url in page.requests if "/logs?" in url][asked:])

    jump = page.page.get_by_role("button", name="Jump to the end")
    expect(jump).to_be_hidden()
    log.evaluate("box => { box.scrollTop = 0; }")
    expect(jump).to_be_visible()
    rotate(path)
    with path.open("a") as file:
        file.write(INFO.format(n=22_000))
    expect(log).to_contain_text("line 22000,")
    assert log.evaluate("box => box.scrollTop") < 200, "it stays where the reader is"
    jump.click()
    at_end(page)
    expect(jump).to_be_hidden()

    first = log.locator(".ln").first.inner_text()
    log.evaluate("box => { box.scrollTop = 0; }")
    page.page.get_by_role("button", name="Earlier lines").click()
    expect(log.locator(".ln").first).not_to_have_text(first)
    expect(log).to_contain_text(first)


def test_search_goes_from_hit_to_hit_and_into_the_context(app: DeckApp, open_page: OpenPage) -> None:
    path = log_of(app.place, "sought", 5_000)
    page = open_page(app, model="sought")
    log = open_log(page, "sought")
    expect(log).to_contain_text("line 4999,")
    box, count = page.page.get_by_placeholder("Search the log"), page.page.locator(".log-count")
    box.fill("LINE 12")
    # 12, 120 to 129, 1200 to 1299
    expect(log.locator(".ln")).to_have_count(111)
    expect(count).to_have_text("111 / 111")
    expect(log.locator(".ln.current")).to_contain_text("line 1299,")
    assert set(log.locator("mark").all_inner_texts()) == {"line 12"}
    box.press("Enter")
    expect(log.locator(".ln.current .no")).to_have_text("16")  # one line for the command, two for warning and token
    expect(count).to_have_text("1 / 111")
    page.page.get_by_role("button", name="Previous hit").click()
    expect(count).to_have_text("111 / 111")
    with path.open("a") as file:
        file.write(INFO.format(n="12 again"))
    expect(log.locator(".ln")).to_have_count(112)

    log.locator(".ln", has_text="line 1234,").click()
    expect(log.locator(".ln.target")).to_contain_text("line 1234,")
    expect(log.locator(".ln.target")).to_be_in_viewport()
    expect(log).to_contain_text("line 1233,")
    expect(log).to_contain_text("line 1235,")
    page.page.get_by_role("button", name="Back to the hits").click()
    expect(log.locator(".ln")).to_have_count(112)
    box.fill("surely not in it")
    expect(log).to_have_text("no hit")
    box.press("Escape")
    expect(log).to_contain_text("line 4999,")
    at_end(page)


def test_levels_runs_and_download(app: DeckApp, open_page: OpenPage) -> None:
    path = log_of(app.place, "told", 300)
    Path(f"{path}.prev").write_text("the run before\n")
    page = open_page(app, model="told")
    log = open_log(page, "told")
    expect(log.locator(".ln.warning")).to_have_count(1)
    expect(log).to_contain_text("the token is hf_…(masked)")
    page.page.get_by_label("warnings and errors").check()
    expect(log.locator(".ln")).to_have_count(1)
    with path.open("a") as file:
        file.write(ERROR + "(EngineCore pid=8) ERROR 11-22 10:09:43 [core.py:1] ValueError: x\n")
    expect(log.locator(".ln.error")).to_have_count(2)
    page.page.get_by_label("warnings and errors").uncheck()
    with page.page.expect_download() as begun:
        page.page.get_by_role("link", name="Download").click()
    assert begun.value.suggested_filename.startswith("told-20")
    assert begun.value.path().read_text() == path.read_text().replace(TOKEN, "hf_…(masked)")

    run = page.page.get_by_role("combobox", name="Log", exact=True)
    run.select_option(label="Previous run")
    expect(log).to_have_text("the run before")
    run.select_option(label="vLLM Deck's own log")
    expect(log).not_to_contain_text("the run before")
    expect(page.page.get_by_role("link", name="Download")).to_be_hidden()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_phone_in_chinese(app: DeckApp, open_page: OpenPage, theme: str) -> None:
    log_of(app.place, "phoned", 300)
    page = open_page(app, model="phoned", locale="zh-CN", size=(390, 844), color_scheme=theme)
    page.open_tab("servers")
    expect(page.page.locator("#server-log pre")).to_contain_text("line 299,")
    assert not page.wider_than_the_window()
    page.page.get_by_placeholder("搜索日志").fill("line 2")
    expect(page.page.locator(".log-count")).to_have_text("111 / 111")
    page.page.get_by_label("自动换行").uncheck()
    assert not page.wider_than_the_window()
