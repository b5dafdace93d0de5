"""One text completion with what the model makes of each token: for checks of a server, not for chats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from server_manager.client import ServerClient
from server_manager.errors import RequestRejected

_NOT_A_NUMBER = "Out of range float values are not JSON compliant"
"""What vLLM answers where it would have to tell a logprob that is NaN."""


class _Token(msgspec.Struct):
    token: str = ""
    logprob: float | None = None


class _Logprobs(msgspec.Struct):
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None
    content: list[_Token] | None = None
    """As llama.cpp has it, also for completions."""


class _Choice(msgspec.Struct):
    text: str = ""
    logprobs: _Logprobs | None = None
    prompt_logprobs: list[dict[str, _Token] | None] | None = None
    """vLLM's own: by the token's id, the prompt's own token first; ``null`` for the first, which nothing precedes."""


class _Usage(msgspec.Struct):
    completion_tokens: int | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class _PlainChoice(msgspec.Struct):
    text: str = ""


class _PlainCompletion(msgspec.Struct):
    """The same without logprobs, whose form no standard settles."""

    choices: list[_PlainChoice]
    usage: _Usage | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer of ``/v1/completions``. Logprobs are natural logarithms; one that is no number (NaN) is ``None``."""

    text: str
    token_count: int | None = None
    tokens: tuple[str, ...] | None = None
    """The answer's tokens as text; ``None`` where the server does not tell them, like the following."""
    logprobs: tuple[float | None, ...] | None = None
    prompt_logprobs: tuple[float | None, ...] | None = None
    """Of the prompt's tokens but the first."""
    candidates: frozenset[str] | None = None
    """For the answer's first token, as many as were asked for."""

    @property
    def has_only_numbers(self) -> bool:
        """Whether the model computes with numbers: broken weights or memory give NaN, which JSON has as ``null``."""
        known = (*(self.logprobs or ()), *(self.prompt_logprobs or ()))
        return all(value is not None and math.isfinite(value) for value in known)


async def complete(
    client: ServerClient, model: str, prompt: str, max_tokens: int, fields: Mapping[str, object], *, seconds: float
) -> Completion:
    """The likeliest continuation of ``prompt``; ``fields`` say what is told of its tokens.

    Raises ``RequestRejected``, also where the answer is none, or ``ServerUnreachable`` after so many seconds.
    """
    wanted = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **fields}
    try:
        return read_completion(await client.ask("POST", "/v1/completions", wanted, seconds=seconds))
    except RequestRejected as error:
        if _NOT_A_NUMBER not in error.message:
            raise
        # vLLM takes that for a mistake of the request, with status 400. It is the server that fails.
        raise RequestRejected(error.message, error.next_step, status=500, type=error.facts.get("type")) from error


def read_completion(body: bytes) -> Completion:
    """The body of an answer. Raises ``RequestRejected`` where it is none."""
    try:
        found = msgspec.json.decode(body, type=_Completion)
        return _told(found.choices[0], found.usage)
    except (msgspec.MsgspecError, IndexError):
        pass
    try:
        plain = msgspec.json.decode(body, type=_PlainCompletion)
        return Completion(plain.choices[0].text, plain.usage.completion_tokens if plain.usage else None)
    except (msgspec.MsgspecError, IndexError) as error:
        raise RequestRejected(f"A completion looks like this: {body[:200]!r}.") from error


def _told(choice: _Choice, usage: _Usage | None) -> Completion:
    known = choice.logprobs or _Logprobs()
    tokens, logprobs = known.tokens, known.token_logprobs
    if known.content is not None:
        tokens, logprobs = [one.token for one in known.content], [one.logprob for one in known.content]
    prompt = None
    if choice.prompt_logprobs is not None:
        prompt = tuple(next(iter(entry.values())).logprob for entry in choice.prompt_logprobs if entry)
    first = next(iter(known.top_logprobs or ()), None)
    count = usage.completion_tokens if usage else None
    return Completion(
        choice.text,
        len(tokens) if count is None and tokens is not None else count,
        None if tokens is None else tuple(tokens),
        None if logprobs is None else tuple(logprobs),
        prompt,
        frozenset(first) if first else None,
    )
