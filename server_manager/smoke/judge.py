"""The verdict on a server's answers: pass, or fail with its reasons.

The limits stand between what working models and damaged ones showed on real vLLM: see ``docs/benchmarks/smoke.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from server_manager.completion import Completion
from server_manager.phrases import Phrase, Sentence
from server_manager.smoke.asking import Answer
from server_manager.smoke.figures import broken_characters, perplexity, repetition
from server_manager.smoke.result import Perplexity, PromptResult, SmokeResult
from server_manager.smoke.words import rounded, said

PROMPT_PERPLEXITY_LIMIT = 500.0
"""Over the words of all prompts, which every model has read often."""
ANSWER_PERPLEXITY_LIMIT = 12.0
"""Over the words of all answers, each the likeliest in its place."""
REPETITION_LIMIT = 0.5
"""A loop of seven tokens, over 16."""
ODD_ANSWERS_LIMIT = 2
"""So many odd answers fail: one is what happens to small models that work ("Hello, my name is ________")."""


def judge(model: str, answers: Sequence[Answer], seconds: float) -> SmokeResult:
    """``seconds`` is how long it took to get the answers."""
    prompts = tuple(_prompt_result(answer) for answer in answers)
    completions = [answer.completion for answer in answers if answer.completion is not None]
    pooled = Perplexity(
        perplexity(value for one in completions for value in one.prompt_logprobs or ()),
        perplexity(value for one in completions for value in one.logprobs or ()),
    )
    reasons = (*_failures(answers, completions), *_surprises(pooled), *_oddities(prompts))
    return SmokeResult(model, reasons, prompts, pooled, _not_judged(answers, completions), seconds)


def _prompt_result(answer: Answer) -> PromptResult:
    found = answer.completion
    if found is None:
        return PromptResult(answer.prompt, findings=(said("smoke_one_error", message=answer.error),))
    repeated = repetition(found.text, found.tokens)
    codes = {
        "smoke_empty": not found.text.strip(),
        "smoke_repeats": repeated >= REPETITION_LIMIT,
        "smoke_broken": broken_characters(found.text) > 0,
    }
    return PromptResult(
        answer.prompt,
        found.text,
        found.token_count,
        tuple(said(code) for code, holds in codes.items() if holds),
        repeated,
        Perplexity(perplexity(found.prompt_logprobs or ()), perplexity(found.logprobs or ())),
    )


def _failures(answers: Sequence[Answer], completions: Sequence[Completion]) -> Iterable[Sentence]:
    errors = [answer.error for answer in answers if answer.completion is None]
    if errors:
        yield said("smoke_error", count=len(errors), all=len(answers), message=errors[0])
    if not all(found.has_only_numbers for found in completions):
        yield said("smoke_not_numbers")
    for answer in answers:
        if answer.fails_with_logprobs:
            yield said("smoke_fails_with_logprobs", message=answer.error)
            break
    texts = {found.text.strip() for found in completions}
    if len(completions) > 1 and len(texts) == 1 and texts != {""}:
        yield said("smoke_same")


def _surprises(pooled: Perplexity) -> Iterable[Sentence]:
    for code, value, limit in (
        ("smoke_prompt_perplexity", pooled.prompt, PROMPT_PERPLEXITY_LIMIT),
        ("smoke_answer_perplexity", pooled.answer, ANSWER_PERPLEXITY_LIMIT),
    ):
        if value is not None and value > limit:
            yield said(code, value=rounded(value), limit=f"{limit:,.0f}")


def _oddities(prompts: Sequence[PromptResult]) -> Iterable[Sentence]:
    odd = [prompt for prompt in prompts if prompt.text is not None and prompt.findings]
    if len(odd) < ODD_ANSWERS_LIMIT:
        return
    codes = dict.fromkeys(phrase.code for prompt in odd for finding in prompt.findings for phrase in finding.phrases)
    what = tuple(Phrase(code.replace("smoke_", "smoke_what_")) for code in codes)
    yield said("smoke_odd", count=len(odd), all=len(prompts), what=what)


def _not_judged(answers: Sequence[Answer], completions: Sequence[Completion]) -> tuple[Sentence, ...]:
    if not completions or any(answer.fails_with_logprobs for answer in answers):
        return ()
    if not any(found.logprobs for found in completions):
        return (said("smoke_no_logprobs"),)
    if not any(found.prompt_logprobs for found in completions):
        return (said("smoke_no_prompt_logprobs"),)
    return ()
