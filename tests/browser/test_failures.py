"""A failure as a person meets it: the card, starting again corrected, and the way to it from the chat."""

from __future__ import annotations

import yaml
from deck_app import DeckApp, Place
from playwright.sync_api import expect
from processes import VLLM_LOGS

from browser.conftest import OpenPage


def test_card_explains_and_starts_again_corrected(app: DeckApp, place: Place, open_page: OpenPage) -> None:
    place.add_model("long", "max-model-len: 32768\n", replay=VLLM_LOGS / "err_gpu_kv_small.log", exit_code=1)
    deck = open_page(app, model="long")
    deck.send("Hello")
    expect(deck.status).to_contain_text("needs 0.38 GiB, and 0.02 GiB are left. Make the context shorter")
    deck.status.get_by_role("button", name="See what can be done").click()
    card = deck.server("long").locator(".failure")
    expect(card.locator(".why")).to_contain_text("The KV cache is too small for one request of 32768 tokens")
    expect(card.locator(".proof")).to_contain_text("the estimated maximum model length is 1696")
    expect(card).to_contain_text("of the log")
    card.get_by_role("button", name="Show the log").click()
    expect(deck.page.locator(".log-count")).to_have_text("2 / 2")  # in the exception and in its copy
    expect(deck.page.locator("#server-log .ln").first).to_contain_text("the estimated maximum model length is 1696")
    expect(deck.page.locator("#server-log")).to_be_in_viewport()
    fix = card.locator(".fix").first
    expect(fix.locator("del")).to_have_text("--max-model-len 32768")
    expect(fix.locator("ins")).to_have_text("--max-model-len 1664")
    (place.models_dir / "long.env").unlink()  # from now on it starts
    fix.get_by_role("button", name="Start with --max-model-len 1664").click()
    expect(deck.server("long").locator(".chip")).to_have_text("ready")
    assert yaml.safe_load((place.models_dir / "long.yaml").read_text())["max-model-len"] == 1664


def test_card_in_chinese_on_a_phone_asks_for_a_token(app: DeckApp, place: Place, open_page: OpenPage) -> None:
    place.add_model("gated", replay=VLLM_LOGS / "made" / "hub_gated.log", exit_code=1)
    app.post("/api/servers/gated/start", status=202)
    app.wait_for("gated", "failed")
    deck = open_page(app, model="quick", locale="zh-CN", size=(390, 844))
    deck.page.get_by_role("tab", name="服务").click()
    card = deck.server("gated").locator(".failure")
    expect(card.locator(".why")).to_contain_text("meta-llama/Llama-3.1-8B-Instruct 是受限模型")
    expect(card).to_contain_text("查看日志")
    assert not deck.wider_than_the_window()
    (place.models_dir / "gated.env").unlink()
    card.get_by_label("HF_TOKEN").fill("hf_verysecret")
    card.get_by_role("button", name="填写 HF_TOKEN 后启动").click()
    expect(deck.server("gated").locator(".chip")).to_have_text("就绪")
    assert "hf_verysecret" not in deck.page.content()
