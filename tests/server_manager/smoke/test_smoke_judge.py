"""The verdict: on what a real vLLM answered with whole and with damaged weights, and on single signs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import StubServer

from server_manager.client import ServerClient
from server_manager.completion import Completion
from server_manager.smoke.asking import PROMPTS, Answer, ask_prompts
from server_manager.smoke.judge import judge
from server_manager.smoke.result import SmokeResult

RECORDED = Path(__file__).resolve().parents[2] / "vllm_answers"
TEXTS = (" Ann and I am ten years old", " the head of state", " Paris, on the Seine", " bright, they say")
PROMPT, CERTAIN = -3.0, -0.5
"""Logprobs of a model that works."""


def codes(result: SmokeResult) -> set[str]:
    return {phrase.code for reason in result.reasons for phrase in reason.phrases}


def verdict(*texts: str, prompt: float | None = PROMPT, answer: float | None = CERTAIN) -> SmokeResult:
    """On answers whose tokens all have the same logprob."""
    answers = []
    for asked, text in zip(PROMPTS, texts or TEXTS, strict=True):
        tokens = tuple(text.split(" "))
        told = Completion(text, len(tokens), tokens, (answer,) * len(tokens), (prompt,) * 4)
        answers.append(Answer(asked, told))
    return judge("m", answers, 1.0)


@pytest.mark.parametrize(
    ("file", "reasons"),
    [
        ("works", set()),
        ("rounded_to_4_bits", set()),
        ("one_layer_left_out", set()),
        ("layer_shuffled", {"smoke_prompt_perplexity"}),
        ("four_layers_left_out", {"smoke_prompt_perplexity", "smoke_odd"}),
        ("half_permuted", {"smoke_prompt_perplexity"}),
        ("random_weights", {"smoke_prompt_perplexity", "smoke_answer_perplexity", "smoke_odd"}),
        (
            "load_format_dummy",
            {"smoke_prompt_perplexity", "smoke_answer_perplexity", "smoke_odd", "smoke_same"},
        ),
        ("all_zero", {"smoke_prompt_perplexity", "smoke_answer_perplexity", "smoke_odd"}),
        ("nan", {"smoke_fails_with_logprobs", "smoke_odd"}),
    ],
)
async def test_recorded_answers(client: ServerClient, stub: StubServer, file: str, reasons: set[str]) -> None:
    exchanges = json.loads((RECORDED / f"{file}.json").read_text(encoding="utf-8"))

    def answer(request: dict[str, object]) -> tuple[int, object]:
        same = ("prompt", "logprobs", "prompt_logprobs")
        found = next(kept for kept in exchanges if all(kept.get(key) == request.get(key) for key in same))
        return found["status"], found["body"]

    stub.answer_completion = answer
    result = judge("m", await ask_prompts(client, "m"), 1.0)
    assert codes(result) == reasons
    assert result.passed is (not reasons)
    assert not result.not_judged


def test_plain_answers_pass() -> None:
    assert verdict().passed


@pytest.mark.parametrize("odd", ["", "   \n", " no no no no no no no no", " it \ufffd\ufffd is so"])
def test_one_odd_answer_is_shown_and_two_fail(odd: str) -> None:
    one = verdict(odd, *TEXTS[1:])
    assert one.passed
    assert [bool(prompt.findings) for prompt in one.prompts] == [True, False, False, False]
    two = verdict(odd, f" and{odd}" if odd.strip() else odd, *TEXTS[2:])
    assert codes(two) == {"smoke_odd"}
    assert str(two.reasons[0]).startswith("2 of 4 answers are odd: ")


def test_kinds_of_oddity_are_listed() -> None:
    found = verdict("", " no no no no no no no no", *TEXTS[2:])
    assert str(found.reasons[0]) == "2 of 4 answers are odd: empty and repeating themselves."


def test_the_same_to_everything() -> None:
    assert codes(verdict(*(" I am a model",) * 4)) == {"smoke_same"}


@pytest.mark.parametrize(
    ("prompt", "answer", "reasons"),
    [
        (-5.0, -1.0, set()),  # perplexity 148: a small model
        (-6.5, -1.0, {"smoke_prompt_perplexity"}),
        (-9999.0, -1.0, {"smoke_prompt_perplexity"}),
        (-3.0, -3.0, {"smoke_answer_perplexity"}),
        (None, -1.0, {"smoke_not_numbers"}),
        (-3.0, None, {"smoke_not_numbers"}),
        (float("nan"), -1.0, {"smoke_not_numbers"}),
    ],
)
def test_probabilities(prompt: float | None, answer: float | None, reasons: set[str]) -> None:
    assert codes(verdict(prompt=prompt, answer=answer)) == reasons


def test_figures_are_in_the_sentence() -> None:
    assert "is 22,026. Models that work stay far below 500." in str(verdict(prompt=-10.0).reasons[0])
