"""The body of the request for an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server_manager.abilities.book import Abilities
from server_manager.chat_messages import Message, has_images, most_tokens
from server_manager.client import ServerClient
from server_manager.errors import ContextExceeded, NotAllowed
from server_manager.server_state import ServerStatus
from server_manager.think_split import ThinkSplit

_TEMPLATE_TOKENS = 512
"""More than any chat template adds by itself (default system prompts, role marks)."""


async def chat_body(
    model: str,
    status: ServerStatus,
    client: ServerClient,
    messages: Sequence[Message],
    *,
    fields: Mapping[str, float | int],
    template_kwargs: Mapping[str, bool],
    stream_interval: int,
) -> dict[str, Any]:
    """The fields of ``/v1/chat/completions``; ``fields`` are those of the sampling. Raises ``ContextExceeded``."""
    body = await question_body(model, status, client, messages, fields=fields, template_kwargs=template_kwargs)
    if not status.attached:
        # vLLM's own; another server may refuse what it does not know. The ids are only counted: the exact figures with
        # each chunk (`continuous_usage_stats`) have vLLM go through the whole answer again for each of them.
        body |= {"stream_interval": stream_interval, "return_token_ids": True}
    return body


async def question_body(
    model: str,
    status: ServerStatus,
    client: ServerClient | None,
    messages: Sequence[Message],
    *,
    fields: Mapping[str, float | int],
    template_kwargs: Mapping[str, bool],
) -> dict[str, Any]:
    """The same without the fields that say how the answer comes. No ``client``: its server is not up."""
    if client is not None:
        fields = await _bounded(fields, messages, client, status.max_model_len)
    body: dict[str, Any] = {"model": status.served_model_name or model, "messages": messages, **fields}
    if template_kwargs:
        body["chat_template_kwargs"] = dict(template_kwargs)
    return body


def think_split(abilities: Abilities, thinking: bool | None) -> ThinkSplit:
    """What tells thinking from the answer in a model's text."""
    split = ThinkSplit(thinking=abilities.begins_inside(thinking))
    if abilities.parses_thinking:
        split.decide()
    return split


def check_images(model: str, abilities: Abilities, messages: Sequence[Message]) -> None:
    """Raises ``NotAllowed`` where a model that cannot see would be sent images."""
    if abilities.vision is not False or not has_images(messages):
        return
    if has_images(messages[-1:]):
        raise NotAllowed(f"{model} cannot see images.", "Pick a vision model, or ask without the image.")
    raise NotAllowed(
        f"{model} cannot see images, and this conversation has some further up.",
        "Pick a vision model, or begin a new conversation for this question.",
    )


async def _bounded(
    fields: Mapping[str, float | int],
    messages: Sequence[Message],
    client: ServerClient,
    max_model_len: int | None,
) -> Mapping[str, float | int]:
    """The sampling fields with ``max_tokens`` at most what the context leaves. Raises ``ContextExceeded``.

    A token is at least one byte, so a conversation whose bytes and ``max_tokens`` fit together need not be counted;
    only one that comes near the limit is tokenized, which costs a round trip.
    """
    if max_model_len is None:
        return fields
    wanted = int(fields.get("max_tokens", max_model_len))
    upper_bound = most_tokens(messages)
    if upper_bound is not None and upper_bound + _TEMPLATE_TOKENS + wanted <= max_model_len:
        return fields
    count = await client.count_tokens(messages)
    if count is None:
        return {**fields, "max_tokens": min(wanted, max_model_len)}
    if count >= max_model_len:
        raise ContextExceeded(
            f"This conversation has {count:,} tokens, and the model's context holds {max_model_len:,}.",
            "Clear it, shorten the message, or start the model with a larger --max-model-len.",
            prompt_tokens=count,
            max_model_len=max_model_len,
        )
    return {**fields, "max_tokens": min(wanted, max_model_len - count)}
