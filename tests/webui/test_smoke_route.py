"""The smoke test from outside: by REST and by the command line, over what a real vLLM answered."""

from __future__ import annotations

from pathlib import Path
from string import Formatter

import pytest
from deck_app import DeckApp

from server_manager.smoke.words import ENGLISH
from webui.locales import smoke_words

RECORDED = Path(__file__).resolve().parents[1] / "vllm_answers"


def names(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_every_sentence_has_its_chinese_with_the_same_facts() -> None:
    words = smoke_words()["zh-CN"]
    assert words.keys() == ENGLISH.keys()
    assert {code: names(text) for code, text in words.items()} == {code: names(text) for code, text in ENGLISH.items()}


@pytest.fixture
def models(stopped: DeckApp) -> DeckApp:
    """With a model that works, and one with random weights."""
    stopped.place.add_model("sound", recorded=RECORDED / "works.json")
    stopped.place.add_model("random", recorded=RECORDED / "random_weights.json")
    return stopped


@pytest.mark.slow
def test_route_and_command(models: DeckApp) -> None:
    found = models.post("/api/servers/sound/smoke")  # it is started for that
    assert (found["model"], found["verdict"], found["reasons"], found["not_judged"]) == ("sound", "pass", [], [])
    assert [prompt["prompt"] for prompt in found["prompts"]][2] == "The capital of France is"
    assert "Paris" in found["prompts"][2]["text"]
    assert found["prompts"][2]["tokens"] == 16
    assert found["prompts"][2]["perplexity"]["answer"] > 1

    found = models.post("/api/servers/random/smoke")
    assert found["verdict"] == "fail"
    assert "plain English" in found["reasons"][0]
    assert "英语" in found["translations"]["zh-CN"]["reasons"][0]
    assert len(found["translations"]["zh-CN"]["prompts"]) == 4

    passed = models.place.command("smoke", "sound")
    assert (passed.returncode, passed.stderr) == (0, "")
    assert "The capital of France is …\n" in passed.stdout
    assert "\nPASS: sound" in passed.stdout
    failed = models.place.command("smoke", "random")
    assert (failed.returncode, failed.stderr) == (1, "")
    assert "\nFAIL: random" in failed.stdout

    for name, status in (("nosuch", 404), ("broken", 502)):
        assert "message" in models.post(f"/api/servers/{name}/smoke", status=status)["error"]
