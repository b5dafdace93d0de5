"""From the turns of a conversation to the messages of a request, in OpenAI's form."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from server_manager.errors import NotAllowed

Message = dict[str, Any]
"""``role`` and ``content``: a text or, with images, a list of parts."""

MOST_IMAGES = 16
"""Of one question."""
LARGEST_IMAGE_BYTES = 20 * 2**20
_DATA_URL = re.compile(r"data:(image/[a-z0-9.+-]+);base64,", re.IGNORECASE)
_BEGINS: dict[str, tuple[bytes, ...]] = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
    "image/bmp": (b"BM",),
}
"""The kinds that both browsers show and vLLM's Pillow reads, by how their files begin."""


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


def checked_image(url: str) -> tuple[str, bytes]:
    """The kind (``image/png``) and the bytes of a data URL.

    Raises ``NotAllowed`` for anything else: other URLs, which vLLM would fetch by itself, among them.
    """
    head = _DATA_URL.match(url)
    kind = head[1].lower() if head else ""
    if head is None or kind not in _BEGINS:
        raise NotAllowed("That is not an image which can be sent.", "Send PNG, JPEG, WebP, GIF or BMP.")
    if len(url) > LARGEST_IMAGE_BYTES * 4 // 3 + 100:
        raise NotAllowed(f"An image may have {LARGEST_IMAGE_BYTES // 2**20} MiB at most.", "Send it smaller.")
    try:
        content = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content.startswith(_BEGINS[kind]):
        raise NotAllowed(f"The image is not whole, or no {kind.removeprefix('image/').upper()}.", "Send it again.")
    return kind, content


def checked_images(urls: Sequence[str]) -> None:
    """Raises ``NotAllowed`` where they are too many, or one is none."""
    if len(urls) > MOST_IMAGES:
        raise NotAllowed(f"A question may have {MOST_IMAGES} images at most.", "Send fewer.")
    for url in urls:
        checked_image(url)


def _content(exchange: Exchange) -> str | list[dict[str, Any]]:
    if not exchange.images:
        return exchange.user
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in exchange.images]
    return [*parts, {"type": "text", "text": exchange.user}] if exchange.user else parts
