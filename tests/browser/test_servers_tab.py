"""The Servers tab: starting and stopping, what is told meanwhile, the log, and the form of a model's file."""

from __future__ import annotations

import re

import pytest
import yaml
from deck_app import DeckApp, Place, eventually
from playwright.sync_api import expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def tab(app: DeckApp, open_page: OpenPage) -> DeckPage:
    """The tab, with a model ``clerk`` that talks slowly."""
    app.place.add_model("clerk", tokens_per_second=5, answer_tokens=500)
    page = open_page(app, model="clerk")
    page.open_tab("servers")
    expect(page.server("clerk")).to_be_visible()
    return page


def written(place: Place, name: str) -> dict[str, object]:
    """A model's file as it is on the disk."""
    found: dict[str, object] = yaml.safe_load((place.models_dir / f"{name}.yaml").read_text())
    return found


def test_life_of_a_server(app: DeckApp, tab: DeckPage) -> None:
    app.place.add_model("clerk", ready_after=8)
    card = tab.server("clerk")
    tab.press("clerk", "Start")
    expect(card.locator(".chip")).to_have_text("starting")
    expect(card.locator(".phases .now")).to_be_visible()
    expect(card).to_contain_text("loading weights")
    expect(card.get_by_role("button", name="Cancel")).to_be_visible()
    expect(card.locator(".chip")).to_have_text("ready")
    expect(card.locator(".phases")).to_have_count(0)

    status = app.server("clerk")
    for fact in (f"port {status['port']}", f"pid {status['pid']}", "context 2,048 tokens", "RAM "):
        expect(card).to_contain_text(fact)
    expect(card).to_contain_text(re.compile(r"up \d+ s"))
    expect(card).to_contain_text(re.compile(r"started in \d+ s"))
    expect(card).to_contain_text("0 running, 0 waiting")
    card.locator("summary").click()
    expect(card.locator(".command pre")).to_have_text(status["command"])
    expect(card.locator(".command pre")).to_contain_text(f"vllm serve {app.place.weights}")

    tab.press("clerk", "Stop")
    expect(tab.server("clerk")).to_contain_text(re.compile(r"(Stopped|Freed .+) in \d+\.\d s, nothing left\."))
    expect(tab.server("clerk").get_by_role("button", name="Start")).to_be_visible()
    assert app.server("clerk")["state"] == "stopped"


def test_start_can_be_cancelled(app: DeckApp, tab: DeckPage) -> None:
    app.place.add_model("clerk", ready_after=60)
    tab.press("clerk", "Start")
    expect(tab.server("clerk").locator(".chip")).to_have_text("starting")
    tab.press("clerk", "Cancel")
    expect(tab.server("clerk")).to_contain_text(re.compile(r"(Stopped|Freed .+) in \d+\.\d s"))
    assert app.server("clerk")["state"] == "stopped"


def test_requests_in_work_are_counted(app: DeckApp, tab: DeckPage) -> None:
    app.start("clerk")
    tab.press("clerk", "Chat")
    expect(tab.text).to_be_visible()
    tab.send("Talk")
    tab.wait_for_live_text()
    tab.open_tab("servers")
    expect(tab.server("clerk")).to_contain_text("1 running, 0 waiting")
    tab.open_tab("chat")
    tab.button("stop").click()
    tab.wait_until_idle()


def test_log_is_live_and_follows(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("logged", ready_after=4)
    page = open_page(app, model="logged")
    page.open_tab("servers")
    log = page.page.locator("#server-log pre")
    expect(log).to_have_text("Nothing logged yet.")
    page.press("logged", "Start")
    expect(log).to_contain_text("Starting to load model")
    assert "startup complete" not in log.inner_text(), "that comes seconds later"
    expect(log).to_contain_text("Application startup complete.")
    app.chat("logged")
    expect(log).to_contain_text("POST /v1/chat/completions")
    page.page.wait_for_function(
        """() => {
          const box = document.querySelector('#server-log pre');
          return box.scrollHeight > box.clientHeight && box.scrollHeight - box.scrollTop - box.clientHeight < 5;
        }"""
    )


def test_log_of_another_server_is_a_click_away(app: DeckApp, tab: DeckPage) -> None:
    app.start("quick")
    app.start("clerk")
    tab.press("quick", "Log")
    expect(tab.page.locator("#server-log .deck-card-head")).to_have_text("quick")
    expect(tab.page.locator("#server-log pre")).to_contain_text("startup complete")
    expect(tab.page.locator("#server-log pre")).to_contain_text("quick")
    expect(tab.page.locator("#server-log pre")).not_to_contain_text("clerk")


def test_failure_is_explained(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("failing", ready_after=1, exit_code=1)
    page = open_page(app, model="failing")
    page.open_tab("servers")
    page.press("failing", "Start")
    card = page.server("failing")
    expect(card.locator(".chip")).to_have_text("failed")
    expect(card.get_by_role("alert")).to_contain_text(re.compile(r"Failed to start after \d+ s"))
    expect(card.get_by_role("alert")).to_contain_text("was killed from outside while it was loading")
    expect(card.get_by_role("button", name="Start")).to_be_visible()
    expect(page.page.locator("#server-log pre")).to_contain_text("Traceback")


def test_crash_is_told_from_a_stop(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("crashing", crash_after=3)
    app.start("crashing")
    page = open_page(app, model="crashing")
    page.open_tab("servers")
    app.chat("crashing")
    expect(page.server("crashing").get_by_role("alert")).to_contain_text("Crashed after")


def test_file_is_shown_in_the_form(app: DeckApp, open_page: OpenPage) -> None:
    app.place.add_model("shown", "max-model-len: 1024\ndtype: bfloat16\nseed: 7\n")
    page = open_page(app, model="shown")
    page.open_tab("servers")
    page.press("shown", "Log")
    expect(page.page.locator("#server-log pre")).to_have_text("Nothing logged yet.")  # so the form has been filled too
    page.open_form()
    for label, value in (
        ("Name", "shown"),
        ("model", str(app.place.weights)),
        ("served-model-name", "shown"),
        ("max-model-len", "1024"),
        ("dtype", "bfloat16"),
        ("Other flags", "--seed 7"),
    ):
        expect(page.field(label)).to_have_value(value)
    expect(page.page.locator("#form-command")).to_contain_text(f"vllm serve {app.place.weights}")
    expect(page.page.locator("#form-command")).to_contain_text("shown.yaml")


def test_form_shows_the_command_saves_and_deletes(app: DeckApp, tab: DeckPage) -> None:
    tab.open_form()
    expect(tab.field("Name")).to_have_value("clerk")
    tab.field("Name").fill("mine")
    tab.field("max-model-len").fill("1536")
    tab.field("gpu-memory-utilization").fill("0.5")
    tab.field("Other flags").fill("--max-num-seqs 4 --enable-prefix-caching")
    command = tab.page.locator("#form-command pre")
    for part in ("--max-model-len 1536", "--gpu-memory-utilization 0.5", "--max-num-seqs 4", "--enable-prefix-caching"):
        expect(command).to_contain_text(part)
    tab.page.locator("#form-save").click()
    expect(tab.page.locator("#form-message")).to_contain_text("Saved.")
    assert written(app.place, "mine") == {
        "model": str(app.place.weights),
        "served-model-name": "clerk",
        "max-model-len": 1536,
        "gpu-memory-utilization": 0.5,
        "max-num-seqs": 4,
        "enable-prefix-caching": True,
    }
    expect(tab.server("mine")).to_be_visible()
    assert "mine" in tab.choices()
    tab.page.locator("#form-delete").click()
    expect(tab.server("mine")).to_have_count(0)
    assert not (app.place.models_dir / "mine.yaml").exists()


def test_unsaved_edits_are_kept_while_another_server_is_looked_at(app: DeckApp, tab: DeckPage) -> None:
    tab.open_form()
    expect(tab.field("Name")).to_have_value("clerk")
    tab.field("Other flags").fill("--max-num-seqs 4")
    tab.press("quick", "Log")
    expect(tab.field("Name")).to_have_value("quick")
    expect(tab.field("Other flags")).to_have_value("")
    tab.press("clerk", "Log")
    expect(tab.field("Other flags")).to_have_value("--max-num-seqs 4")
    expect(tab.page.locator("#form-command pre")).to_contain_text("--max-num-seqs 4")
    expect(tab.page.locator("#form-message")).to_contain_text("not saved")
    assert "max-num-seqs" not in written(app.place, "clerk")
    tab.page.get_by_role("button", name="Discard it").click()
    expect(tab.field("Other flags")).to_have_value("")
    expect(tab.page.locator("#form-message")).not_to_contain_text("not saved")
    expect(tab.page.locator("#form-command pre")).not_to_contain_text("--max-num-seqs 4")


def test_pasted_line_becomes_a_file_with_nothing_lost(app: DeckApp, tab: DeckPage) -> None:
    tab.open_form()
    tab.page.get_by_role("button", name="Paste a “vllm serve …” line").click()
    line = (
        f"VLLM_ATTENTION_BACKEND=FLASHINFER vllm serve {app.place.weights} --served-model-name pasted \\\n"
        "  -tp 2 --max-model-len 1k --no-enable-prefix-caching --hf-overrides '{\"rope_theta\": 10000.5}'"
    )
    tab.page.locator("#paste textarea").fill(line)
    tab.page.locator("#paste-read").click()
    expect(tab.page.locator("#form-message")).to_contain_text("Read.")
    expect(tab.field("tensor-parallel-size")).to_have_value("2")
    tab.field("Name").fill("pasted")
    tab.page.locator("#form-save").click()
    expect(tab.page.locator("#form-message")).to_contain_text("Saved.")
    saved = app.get("/api/models/pasted")
    assert saved["model"] == str(app.place.weights)
    assert saved["env"]["VLLM_ATTENTION_BACKEND"] == "FLASHINFER"
    for part in ("--tensor-parallel-size 2", "--no-enable-prefix-caching", "--served-model-name pasted", "rope_theta"):
        assert part in saved["command"], part
    assert saved["options"]["max-model-len"] in ("1k", 1000)


def test_mistakes_in_the_form_are_explained(app: DeckApp, tab: DeckPage) -> None:
    """A flag that vLLM does not know may be saved; a line that cannot be read may not."""
    tab.open_form()
    expect(tab.field("Name")).to_have_value("clerk")
    tab.field("Other flags").fill("--max-nun-seqs 4")
    expect(tab.page.locator("#form-message .warn")).to_contain_text("max-num-seqs")
    tab.expected_errors.append("422")
    tab.field("Other flags").fill("--served-model-name 'unclosed")
    expect(tab.page.locator("#form-message .bad")).to_be_visible()
    tab.page.locator("#form-save").click()
    expect(tab.page.locator("#form-message .bad")).to_be_visible()
    assert written(app.place, "clerk") == {"model": str(app.place.weights), "served-model-name": "clerk"}


def test_source_of_one_model(app: DeckApp, tab: DeckPage) -> None:
    tab.open_form()
    expect(tab.field("Name")).to_have_value("clerk")
    tab.expected_errors.append("422")  # a mirror without a URL, as long as none is typed
    choose_source(tab, "Mirror")
    tab.field("HF_ENDPOINT").fill("https://mirror.example")
    tab.page.locator("#form-save").click()
    expect(tab.page.locator("#form-message")).to_contain_text("Saved.")
    env = (app.place.models_dir / "clerk.env").read_text()
    assert "https://mirror.example" in env
    assert "FAKE_VLLM_ANSWER_TOKENS" in env, "variables that the form does not show are kept"
    choose_source(tab, "ModelScope")
    tab.page.locator("#form-save").click()
    env_file = app.place.models_dir / "clerk.env"
    eventually(lambda: "mirror.example" not in env_file.read_text(), "it is saved")
    assert "VLLM_USE_MODELSCOPE" in env_file.read_text()


def choose_source(page: DeckPage, label: str) -> None:
    page.field("Source").click()
    page.page.locator("#server-side").get_by_role("option", name=label).click()


def test_source_of_all_models(app: DeckApp, tab: DeckPage, open_page: OpenPage) -> None:
    tab.open_form()
    tab.page.get_by_role("button", name="Source for all models").click()
    tab.page.locator("#all-source").get_by_label("ModelScope").check()
    tab.page.locator("#all-source-save").click()
    expect(tab.page.locator("#form-message")).to_contain_text("Saved.")
    assert "VLLM_USE_MODELSCOPE" in (app.place.models_dir / "defaults.env").read_text()
    again = open_page(app, model="clerk")
    again.open_tab("servers")
    again.open_form()
    again.page.get_by_role("button", name="Source for all models").click()
    expect(again.page.locator("#all-source").get_by_label("ModelScope")).to_be_checked()
    again.page.locator("#all-source").get_by_label("as set for all").check()
    again.page.locator("#all-source-save").click()
    eventually(lambda: app.get("/api/source")["source"] == "default", "it is taken back")
