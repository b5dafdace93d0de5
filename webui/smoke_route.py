"""The route of the smoke test: does a server talk sense?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from server_manager import SmokeResult, render_phrases, smoke_test
from webui.locales import smoke_words
from webui.rest import Context, Operator

router = APIRouter()


@router.post("/api/servers/{name}/smoke")
async def smoke(name: str, context: Context, user: Operator) -> dict[str, Any]:
    """Completes four short prompts on the server, which is started or woken for it, and judges the answers.

    `verdict` is `pass` or `fail`, for the `reasons`. Perplexity is null where the server tells no logprobs, and that of
    prompts where it is not vLLM: `not_judged` says what went unnoticed for that. It answers when all is done.
    """
    result = await smoke_test(context.manager, name)
    return result.as_dict() | {"translations": translated(result)}


def translated(result: SmokeResult) -> dict[str, dict[str, Any]]:
    """Its sentences by language: `reasons`, `not_judged`, and those of each prompt."""

    def said(sentences: Sequence[Any], words: dict[str, str]) -> list[str]:
        return [render_phrases(sentence.phrases, words) for sentence in sentences]

    return {
        locale: {
            "reasons": said(result.reasons, words),
            "not_judged": said(result.not_judged, words),
            "prompts": [said(prompt.findings, words) for prompt in result.prompts],
        }
        for locale, words in smoke_words().items()
    }
