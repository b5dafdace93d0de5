"""What a server's refusal of a chat means, in plain words and with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from server_manager.errors import ContextExceeded, RequestRejected


class ErrorBody(msgspec.Struct):
    """vLLM's ``error``: ``{"message", "type", "param", "code"}``."""

    message: str = ""
    type: str | None = None
    code: int | str | None = None
    param: str | None = None


class _Body(msgspec.Struct):
    error: ErrorBody | str | None = None
    message: str = ""
    """Other servers have it here (FastAPI's own errors: in ``detail``)."""
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class _Rule:
    """One kind of refusal: by what the message holds, in lower case, or by the status."""

    matches: Callable[[int, str], bool]
    message: str
    """``{text}`` is the server's own."""
    next_step: str


def _says(*words: str) -> Callable[[int, str], bool]:
    return lambda status, text: any(word in text for word in words)


def _status(*statuses: int) -> Callable[[int, str], bool]:
    return lambda status, text: status in statuses


_RULES = (
    _Rule(
        _says("must provide a chat template", "chat template is no longer allowed", "does not have a chat template"),
        "This model has no chat template: it goes on with a text, and answers no questions.",
        "Pick one made for chat (their names often end in Instruct), or set --chat-template to a file.",
    ),
    _Rule(
        _says(
            "roles must alternate", "only user and assistant roles", "system role not supported", "system role is not"
        ),
        "The model's chat template does not take this conversation: {text}",
        "Empty the system prompt, or begin a new conversation.",
    ),
    _Rule(
        _says("chat template", "chat_template"),
        "The model's chat template does not take this conversation: {text}",
        "Switch thinking to the model's own default, empty the system prompt, or see --chat-template.",
    ),
    _Rule(
        _says(
            "at most 0 image",
            "is not a multimodal model",
            "does not support image",
            "only supports text",
            "image input is not",
        ),
        "This model cannot see images.",
        "Pick a vision model, or ask without the image.",
    ),
    _Rule(
        _says("may be provided in one prompt"),
        "The model takes no more images in one conversation: {text}",
        "Send fewer, begin a new conversation, or raise --limit-mm-per-prompt.",
    ),
    _Rule(
        _says("cannot identify image", "failed to load image", "image file is truncated", "invalid image"),
        "The server cannot read the image: {text}",
        "Send it as PNG or JPEG.",
    ),
    _Rule(
        _says("is not a valid parameter", "must be in", "must be at least", "must be greater", "cannot be greater"),
        "The server does not take a setting of this chat: {text}",
        "Change that slider, or set all back to the model's own.",
    ),
    _Rule(
        _status(401, 403),
        "The server wants another API key: {text}",
        "Set DECK_ATTACH_API_KEY to the key of an attached server, and start vLLM Deck anew.",
    ),
    _Rule(
        _status(404),
        "The server has no model of that name: {text}",
        "See its served-model-name. An attached server may serve another one by now: send again in some seconds.",
    ),
    _Rule(_status(429), "The server takes no more requests now: {text}", "Send again in a while."),
    _Rule(
        _status(503),
        "The server is too busy, or its engine has died: {text}",
        "Send again in a while; see its log if that does not help.",
    ),
    _Rule(_says("enginecore encountered"), "{what}: {text}", "See the server's log."),
)


def rejection(status: int, body: bytes) -> RequestRejected | ContextExceeded:
    """Our error for an answer with an error's status."""
    try:
        found = msgspec.json.decode(body, type=_Body)
        error = found.error or found.message or found.detail
    except msgspec.MsgspecError:
        error = None
    return refusal(status, error or body.decode("utf-8", "replace")[:500] or f"HTTP status {status}")


def refusal(
    status: int, error: ErrorBody | str, what: str = "The server refused the request"
) -> RequestRejected | ContextExceeded:
    """Our error for an error body of vLLM; ``what`` goes before a message that we know nothing better for."""
    body = error if isinstance(error, ErrorBody) else ErrorBody(message=error)
    if body.param == "input_tokens" or _context_is_the_matter(body.message):
        numbers = [int(found) for found in re.findall(r"\b\d+\b", body.message.replace(",", ""))]
        return ContextExceeded(
            "This conversation is longer than the model's context.",
            "Clear it, shorten the message, or start the model with a larger --max-model-len.",
            max_model_len=numbers[0] if numbers else None,
            prompt_tokens=numbers[1] if len(numbers) > 1 else None,
        )
    text = body.message.strip()
    lower = text.lower()
    for rule in _RULES:
        if rule.matches(status, lower):
            message = rule.message.replace("{what}", what).replace("{text}", text)
            return RequestRejected(message, rule.next_step, status=status, type=body.type)
    return RequestRejected(f"{what}: {text}", "", status=status, type=body.type)


def _context_is_the_matter(message: str) -> bool:
    """Of vLLM of several versions, and of servers that speak likewise."""
    return any(
        words in message
        for words in ("maximum context length", "exceeds the available context size", "context length exceeded")
    )
