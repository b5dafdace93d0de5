"""What a refusal means, from the words of vLLM 0.32."""

from __future__ import annotations

import json

import pytest

from server_manager.chat_refusals import rejection
from server_manager.errors import ContextExceeded, RequestRejected

NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the "
    "tokenizer does not define one."
)
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."


@pytest.mark.parametrize(
    ("status", "text", "message", "next_step"),
    [
        (400, NO_TEMPLATE, "has no chat template", "end in Instruct"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/...", "roles must alternate", "system"),
        (400, "System role not supported", "template does not take", "system prompt"),
        (400, "At most 0 image(s) may be provided in one prompt.", "cannot see images", "vision model"),
        (400, "/models/smol is not a multimodal model", "cannot see images", "vision model"),
        (
            400,
            "At most 1 image(s) may be provided in one prompt. Set `--limit-mm-per-prompt` to increase this limit.",
            "takes no more images",
            "--limit-mm-per-prompt",
        ),
        (400, "Failed to load image: cannot identify image file", "cannot read the image", "PNG"),
        (400, "max_tokens=5000 cannot be greater than max_model_len=2048.", "a setting of this chat", "slider"),
        (404, "The model `nope` does not exist. Valid aliases: smol.", "no model of that name", "served-model-name"),
        (503, BUSY, "too busy", "in a while"),
        (429, "slow down", "no more requests now", "in a while"),
        (418, "I am a teapot", "The server refused the request: I am a teapot", ""),
    ],
)
def test_vllms_words_are_told_with_a_remedy(status: int, text: str, message: str, next_step: str) -> None:
    body = json.dumps({"error": {"message": text, "type": "BadRequestError", "param": None, "code": status}}).encode()
    error = rejection(status, body)
    assert isinstance(error, RequestRejected)
    assert message in error.message
    assert error.facts["status"] == status
    if next_step:
        assert next_step in error.next_step


def test_errors_of_other_servers_are_found_too() -> None:
    assert "Not Found" in rejection(404, b'{"detail": "Not Found"}').message
    assert "bad" in rejection(400, b'{"message": "bad", "object": "error"}').message
    too_long = b'{"error": {"message": "the request exceeds the available context size (4096 tokens)", "code": 400}}'
    assert isinstance(rejection(400, too_long), ContextExceeded)
