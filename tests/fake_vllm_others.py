"""More of ``fake_vllm.py``: what vLLM has besides chats and completions, in the shape of vLLM 0.32."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

from fake_vllm_answers import Engine, Exchange, Rejected, count_tokens, unique


class AnthropicRejected(Rejected):
    """The same error, as ``/v1/messages`` tells it."""

    def __init__(self, error: Rejected) -> None:
        super().__init__(error.status, str(error))
        found = error.body["error"]
        self.body = {"type": "error", "error": {"type": found["type"], "message": found["message"]}}


def _request(x: Exchange) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(x.body)
    except ValueError as error:
        raise Rejected(400, f"JSON decode error: {error}") from None
    return found


async def messages(engine: Engine, x: Exchange) -> None:
    """Anthropic's interface: one block of text."""
    request = _request(x)
    prompt_tokens = count_tokens(request.get("messages") or [])
    try:
        engine.check(request, prompt_tokens)
    except Rejected as error:
        raise AnthropicRejected(error) from None
    if x.path.endswith("/count_tokens"):
        x.answer(200, {"input_tokens": prompt_tokens})
        return
    tokens, finish = engine.answer_tokens(request)
    head = {"id": f"chatcmpl-{unique()[:16]}", "type": "message", "role": "assistant", "content": []}
    head |= {"model": request.get("model") or engine.args.names[0]}
    reason = {"stop": "end_turn", "length": "max_tokens"}[finish]
    began = time.monotonic()
    engine.running += 1
    try:
        if request.get("stream"):
            await _stream_message(engine, x, head, tokens, reason, prompt_tokens)
            return
        for index in range(len(tokens)):
            if not await engine.pace(x, index, began):
                raise ConnectionResetError
        content = [{"type": "text", "text": "".join(text for _, text in tokens)}]
        usage = {"input_tokens": prompt_tokens, "output_tokens": len(tokens)}
        x.answer(200, {**head, "content": content, "stop_reason": reason, "usage": usage})
    finally:
        engine.running -= 1


async def _stream_message(
    engine: Engine, x: Exchange, head: dict[str, Any], tokens: list[tuple[str, str]], reason: str, prompt_tokens: int
) -> None:
    def send(kind: str, **fields: object) -> None:
        data = json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":"))
        x.chunk(f"event: {kind}\ndata: {data}\n\n".encode())

    began = time.monotonic()
    usage = {"input_tokens": prompt_tokens, "output_tokens": 0}
    x.start_stream()
    send("message_start", message={**head, "stop_reason": None, "stop_sequence": None, "usage": usage})
    send("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for index, (_, text) in enumerate(tokens):
        if not await engine.pace(x, index, began):
            raise ConnectionResetError
        send("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        await x.writer.drain()
    send("content_block_stop", index=0)
    usage = {"input_tokens": prompt_tokens, "output_tokens": len(tokens)}
    send("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)
    send("message_stop")
    x.writer.write(b"0\r\n\r\n")


async def embeddings(engine: Engine, x: Exchange) -> None:
    """Three numbers for each input."""
    request = _request(x)
    given = request.get("input", "")
    inputs = given if isinstance(given, list) else [given]
    engine.check(request, count_tokens(" ".join(map(str, inputs))))
    data = [{"index": i, "object": "embedding", "embedding": [0.1, -0.2, 0.3]} for i in range(len(inputs))]
    count = sum(count_tokens(str(text)) for text in inputs)
    usage = {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0, "prompt_tokens_details": None}
    x.answer(
        200,
        {
            "id": f"embd-{unique()[:16]}",
            "object": "list",
            "created": int(time.time()),
            "model": request.get("model") or engine.args.names[0],
            "data": data,
            "usage": usage,
        },
    )


async def transcriptions(engine: Engine, x: Exchange) -> None:
    """Tells how long the file of the form was."""
    found = re.search(rb'name="model"\r\n\r\n(.*?)\r\n', x.body)
    file = re.search(rb'name="file"; filename="[^"]*".*?\r\n\r\n(.*?)\r\n--', x.body, re.DOTALL)
    engine.check({"model": found[1].decode() if found else None}, 0)
    await asyncio.sleep(0)
    x.answer(200, {"text": f"{len(file[1]) if file else 0} bytes", "usage": {"type": "duration", "seconds": 1}})
