"""The Load test tab: runs of before with their charts and tables, a comparison, and a new run from its start on."""

from __future__ import annotations

import re

import pytest
from deck_app import DeckApp
from playwright.sync_api import Browser, Locator, expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage, expect_drawn

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

CHARTS = (
    "plot-latency",
    "plot-throughput",
    "plot-distribution",
    "track-throughput",
    "track-requests",
    "track-use",
    "track-memory",
)


class LoadTab:
    """The tab as a person uses it."""

    def __init__(self, page: DeckPage) -> None:
        self.page = page.page
        page.open_tab("load-test")
        expect(self.page.locator("#load-test > *").first).to_be_visible()

    @property
    def run(self) -> Locator:
        """The page of the run that is shown."""
        return self.page.locator("#load-run")

    def kept(self, name: str) -> Locator:
        """A line of the list."""
        return self.page.locator("#load-runs li").filter(
            has=self.page.locator(".name", has_text=re.compile(f"^{name}$"))
        )

    def open(self, name: str) -> None:
        self.kept(name).locator("button.open").click()
        expect(self.run.locator("h2")).to_have_text(name)

    def plot(self, name: str) -> Locator:
        return self.page.locator(f"#load-{name}")

    def field(self, name: str) -> Locator:
        return self.page.locator(f'#load-form [name="{name}"]')

    def start(self) -> None:
        self.page.locator("#load-start").click()

    def tick_only(self, *models: str) -> None:
        for box in self.page.locator('#load-form [name="model"]').all():
            box.set_checked(box.get_attribute("value") in models)


def cells(table: Locator, level: str) -> list[str]:
    return [text.strip() for text in table.locator(f'[data-level="{level}"] > *').all_inner_texts()]


def test_run_of_before_is_shown_with_figures_charts_and_commands(app: DeckApp, open_page: OpenPage) -> None:
    tab = LoadTab(open_page(app))
    tab.open("before")
    expect(tab.run.locator(".load-facts")).to_contain_text(re.compile(r"10,596 tok/s\s*peak · concurrency 128"))
    table = tab.run.locator(".load-table")
    assert cells(table, "8")[:9] == ["8", "13.8", "1,760", "8,801", "0 / 32", "23.9", "23.0", "34.4", "55.1"]
    for name in CHARTS:
        expect_drawn(tab.plot(name))
    tab.plot("plot-latency").locator(".u-over").hover()
    expect(tab.plot("plot-latency").locator(".plot-tip")).to_contain_text(
        re.compile(r"concurrency: (8|32).*p50 [\d.]+ ms", re.DOTALL)
    )
    tab.run.get_by_label("Latency", exact=True).select_option("e2el")
    tab.plot("plot-latency").locator(".u-over").hover(position={"x": 5, "y": 20})
    expect(tab.plot("plot-latency").locator(".plot-tip")).to_contain_text("p50 528 ms")
    command = tab.run.locator(".load-commands details").nth(1)
    command.locator("summary span").click()
    expect(command.locator("pre")).to_contain_text("--max-concurrency 8")
    expect(tab.run.locator(".load-method")).to_contain_text("not through this app")
    tab.page.get_by_role("button", name="Light or dark").click()
    expect_drawn(tab.plot("plot-latency"))


def test_runs_are_compared_in_per_cent(app: DeckApp, open_page: OpenPage) -> None:
    tab = LoadTab(open_page(app))
    for name in ("after", "before"):
        tab.kept(name).get_by_role("checkbox").check()
    tab.page.locator("#load-compare").click()
    both = tab.page.locator("#load-comparison")
    expect(both.locator(".load-table thead")).to_contain_text(re.compile("before.*after", re.DOTALL))
    rows = both.locator("tbody").filter(has_text="concurrency 32").locator("tr")
    expect(rows.filter(has_text="answer tokens")).to_contain_text(re.compile(r"5,320\s*6,650\s*\+25\.0 %"))
    expect(rows.filter(has_text="TTFT p99").locator(".better")).to_have_text("−20.0 %")
    for name in CHARTS:
        expect_drawn(tab.plot(name))
    both.get_by_role("button", name="Close").click()
    expect(both).to_have_count(0)


def test_model_that_failed_has_its_card_in_the_ladder(app: DeckApp, open_page: OpenPage) -> None:
    tab = LoadTab(open_page(app, size=(390, 844), locale="zh-CN"))
    tab.open("Qwen2 ladder")
    expect(tab.run.locator('[data-failed="Qwen2-7B-Instruct"] .failure')).to_contain_text("FooBarForCausalLM")
    ladder = tab.run.locator(".load-table.ladder")
    expect(ladder.locator('[data-model="Qwen2-1.5B-Instruct"]')).to_contain_text("39.0")
    expect(ladder.locator('[data-model="Qwen2-7B-Instruct"]')).to_contain_text("失败")
    expect(tab.run.locator(".plot-legend").first).to_contain_text(re.compile("0.5B.*1.5B"))
    expect_drawn(tab.plot("plot-throughput"))


def test_users_are_told_that_it_is_for_operators(app: DeckApp, browser: Browser, open_page: OpenPage) -> None:
    context = browser.new_context(locale="en-US")
    context.route("**/api/me", lambda route: route.fulfill(json={"name": "guest", "role": "user", "login": True}))
    page = open_page(app, context=context)
    expect(LoadTab(page).page.locator("#load-test")).to_have_text("Load tests are for operators.")
    assert not [url for url in page.requests if "/api/load-tests" in url]


def test_one_run_is_stopped_and_another_measured_renamed_and_deleted(app: DeckApp, page: DeckPage) -> None:
    tab = LoadTab(page)
    tab.tick_only("quick")
    for name, value in (("input_len", "20"), ("output_len", "8"), ("num_prompts", "100000"), ("concurrency", "1, 2")):
        tab.field(name).fill(value)
    tab.start()
    expect(tab.run.locator(".load-strip .running").first).to_be_visible()
    tab.page.locator("#load-stop").click()
    expect(tab.run).to_have_attribute("data-state", "stopped")
    assert not [line for line in app.place.processes().values() if " bench " in line], "nothing of it is left"

    tab.field("num_prompts").fill("4")
    tab.field("dataset").select_option("custom")
    tab.start()
    expect(tab.page.locator("#load-form [role=alert]")).to_contain_text("Give the path of the file")
    tab.field("dataset").select_option("random")
    tab.start()
    expect(tab.run).to_have_attribute("data-state", "done")
    table = tab.run.locator(".load-table")
    assert [cells(table, level)[4] for level in ("1", "2")] == ["0 / 4", "0 / 4"]
    expect_drawn(tab.plot("plot-latency"))
    with tab.page.expect_download() as download:
        tab.run.get_by_role("link", name="JSON").click()
    assert download.value.suggested_filename.endswith(".json")

    kept = tab.page.locator("#load-runs li").first
    kept.hover()
    kept.get_by_role("button", name=re.compile("^Rename")).click()
    kept.locator(".title-field").fill("mine")
    kept.locator(".title-field").press("Enter")
    expect(tab.run.locator("h2")).to_have_text("mine")
    tab.kept("mine").get_by_role("button", name=re.compile("^Delete")).click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Delete for good").click()
    expect(tab.kept("mine")).to_have_count(0)
    expect(tab.run).to_have_count(0)
