"""From the turns of a conversation to the messages of a request, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
"""``role`` and ``content``: a text or, with images, a list of parts."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer, as far as the model is to see them. What it thought is not among that."""

    user: str
    assistant: str | None
    """``None``: the question that is asked now."""
    images: Sequence[str] = ()
    """Data URLs."""


def chat_messages(exchanges: Iterable[Exchange], system_prompt: str = "") -> list[Message]:
    """The messages for the exchanges, oldest first; the last is usually without an answer."""
    messages: list[Message] = [{"role": "system", "content": system_prompt}] if system_prompt.strip() else []
    for exchange in exchanges:
        messages.append({"role": "user", "content": _content(exchange)})
        if exchange.assistant is not None:
            # Empty too (an answer that was stopped while it thought): many templates want the roles to alternate.
            messages.append({"role": "assistant", "content": exchange.assistant})
    return messages


def has_images(messages: Iterable[Message]) -> bool:
    """Whether a model must be able to see to answer."""
    return any(not isinstance(message["content"], str) for message in messages)


def most_tokens(messages: Iterable[Message]) -> int | None:
    """More tokens than the messages can have (one is at least a byte); ``None`` with images, where nobody knows."""
    total = 0
    for message in messages:
        if not isinstance(message["content"], str):
            return None
        total += len(message["content"].encode()) + 16
    return total


def _content(exchange: Exchange) -> str | list[dict[str, Any]]:
    if not exchange.images:
        return exchange.user
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in exchange.images]
    return [*parts, {"type": "text", "text": exchange.user}] if exchange.user else parts
