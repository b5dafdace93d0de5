"""Answers as servers send them, for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Send = Callable[[web.StreamResponse], Awaitable[Any]]

TOO_LONG = (
    b'{"error":{"message":"This model\'s maximum context length is 2048 tokens. However, your prompt contains at least '
    b"2049 input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the "
    b'input prompt. (parameter=input_tokens, value=2049)","type":"BadRequestError","param":"input_tokens","code":400}}'
)
MAX_TOKENS = (
    b'{"error":{"message":"max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output '
    b'tokens. (parameter=max_tokens, value=5000)","type":"BadRequestError","param":"max_tokens","code":400}}'
)
UNKNOWN_MODEL = (
    b'{"error":{"message":"The model `nope` does not exist. Valid aliases: smol, smol-alias.","type":"NotFoundError",'
    b'"param":"model","code":404}}'
)


def chunk(finish: str | None = None, **delta: object) -> bytes:
    # More fields than we read, as vLLM sends them.
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


USAGE = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":7,"total_tokens":10,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
ANSWER = (
    chunk(role="assistant", content="")
    + b": keep-alive\n\n"
    + chunk(reasoning="Hm. ")
    + chunk(reasoning_content="Ja, ")
    + chunk(content="grün €").replace(b"\n\n", b"\r\n\r\n")
    + chunk(content=" 😀", finish="stop")
    + USAGE
    + DONE
)


def sends(*blocks: bytes, abort: bool = False) -> Send:
    async def send(response: web.StreamResponse) -> None:
        for block in blocks:
            await response.write(block)
            await asyncio.sleep(0.01)
        if abort:
            assert response._req is not None
            assert response._req.transport is not None
            response._req.transport.abort()

    return send
