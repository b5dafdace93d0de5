"""Asks a server the four prompts, with as much about their tokens as it is able to tell."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server_manager.client import ServerClient
from server_manager.completion import Completion, complete
from server_manager.errors import ChatError, ContextExceeded, NotAllowed

PROMPTS = (
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
)
"""Those of vLLM's own first example, and of the tutorials that follow it."""
MAX_TOKENS = 16
PATIENCE_SECONDS = 120.0
"""For each answer. The first one with logprobs takes 12 s on a CPU, where something is compiled for it."""

Fields = Mapping[str, object]

_LOGPROBS: Fields = {"logprobs": 1}
_FORMS: tuple[Fields, ...] = ({**_LOGPROBS, "prompt_logprobs": 0}, _LOGPROBS, {})
"""vLLM tells of the prompt's tokens too (0: of these alone, not of what might have stood there as well). Other servers
may refuse what they do not know."""
_NOT_UNDERSTOOD = (400, 404, 405, 422, 501)
_NOT_ABOUT_THE_MODEL = (401, 403, 429, 503)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one prompt."""

    prompt: str
    completion: Completion | None
    """``None`` where there was an error instead."""
    error: str = ""
    fails_with_logprobs: bool = False
    """It answers, but fails where it has to tell probabilities: vLLM does so where they are no numbers."""


async def ask_prompts(client: ServerClient, model: str) -> tuple[Answer, ...]:
    """The answers to ``PROMPTS``; the first is asked alone, and shows what the server understands.

    Raises ``NotAllowed`` where it completes no text, and ``ChatError`` where it refuses for a reason that is none of
    the model's (a key, too many requests, a context that is too short).
    """
    first, forms = await _ask(client, model, PROMPTS[0], _FORMS)
    rest = await asyncio.gather(*(_ask(client, model, prompt, forms) for prompt in PROMPTS[1:]), return_exceptions=True)
    answers = [first]
    for found in rest:
        if isinstance(found, BaseException):
            raise found
        answers.append(found[0])
    return tuple(answers)


async def _ask(
    client: ServerClient, model: str, prompt: str, forms: Sequence[Fields]
) -> tuple[Answer, Sequence[Fields]]:
    """The answer in the first of the forms that the server takes, and the forms from that one on."""
    failed, fails_with_logprobs = "", False
    refusal: ChatError | None = None
    for index, fields in enumerate(forms):
        try:
            completion = await complete(client, model, prompt, MAX_TOKENS, fields, seconds=PATIENCE_SECONDS)
        except ChatError as error:
            status = error.facts.get("status")
            if status in _NOT_ABOUT_THE_MODEL or isinstance(error, ContextExceeded):
                raise
            if status is None:  # it does not answer, or not with a completion
                return Answer(prompt, None, error.message), forms
            if status in _NOT_UNDERSTOOD:
                refusal = error
            else:
                failed = failed or error.message
                fails_with_logprobs = fields is _LOGPROBS
            continue
        return Answer(prompt, completion, failed, fails_with_logprobs), forms[index:]
    if failed or refusal is None:
        return Answer(prompt, None, failed), forms
    raise NotAllowed(
        f"There is nothing to judge: the server completes no text. {refusal.message}",
        "The smoke test is for models that write text, on servers with /v1/completions.",
    ) from refusal
