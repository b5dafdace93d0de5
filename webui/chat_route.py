"""The route that the page's chat reads: one JSON frame a line, as the answer is made."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from server_manager import ChatRequest, DoneFrame, ProgressFrame, ServerManagerError, TextFrame
from webui.context import AppContext
from webui.errors import error_dict
from webui.rest import AnyUser, Context
from webui.snapshot import status_dict, without_command

log = logging.getLogger(__name__)
router = APIRouter()
MAX_TEXT_CHARS = 2_000_000
Number = int | Annotated[float, Field(allow_inf_nan=False)]


class Question(BaseModel):
    """What the page sends for one answer."""

    conversation: str = Field(description="Any id of 8 to 64 letters and digits; the same one goes on a conversation.")
    model: str = Field(description="A name of the catalogue.")
    text: Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
    system_prompt: Annotated[str, Field(max_length=MAX_TEXT_CHARS)] = ""
    sampling: dict[str, Number | None] = Field(default_factory=dict)
    replace_from: int | None = Field(None, ge=0, description="Index of the turn to answer anew.")


@router.post("/api/chat", response_class=StreamingResponse)
async def chat(question: Question, context: Context, user: AnyUser) -> StreamingResponse:
    """Streams an answer as lines of JSON: `progress`, `text`, and last `done` or `error`.

    A model that is not up is started first. Closing the connection aborts the request in vLLM.
    """
    request = ChatRequest(
        conversation=question.conversation,
        model=question.model,
        text=question.text,
        system_prompt=question.system_prompt,
        sampling=question.sampling,
        replace_from=question.replace_from,
    )
    frames = _lines(context, request, user.name, may_start=user.is_operator)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(frames, media_type="application/x-ndjson", headers=headers)


@router.get("/api/conversations/{conversation_id}")
async def conversation(conversation_id: str, context: Context, user: AnyUser) -> dict[str, Any]:
    """What was said so far."""
    found = context.conversations.look(conversation_id, user.name)
    return {"id": found.id, "busy": found.busy, "turns": msgspec.to_builtins(found.turns)}


@router.delete("/api/conversations/{conversation_id}")
async def clear(conversation_id: str, context: Context, user: AnyUser) -> dict[str, str]:
    """Forgets the turns of a conversation."""
    context.conversations.clear(conversation_id, user.name)
    return {"cleared": conversation_id}


async def _lines(
    context: AppContext, request: ChatRequest, owner: str, *, may_start: bool
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(context.chat.answer(request, owner=owner, may_start=may_start)) as frames:
            async for frame in frames:
                yield _line(frame)
    except ServerManagerError as error:
        yield _encode({"type": "error", **error_dict(error)})
    except Exception:  # the status line is long sent: without this the page would only see a connection that ends
        log.exception("an answer failed unexpectedly")
        yield _encode(
            {"type": "error", "code": "mistake", "message": "vLLM Deck made a mistake.", "next_step": "See its log."}
        )


def _line(frame: TextFrame | ProgressFrame | DoneFrame) -> bytes:
    if isinstance(frame, TextFrame):
        return _encode({"type": "text", "content": frame.content, "reasoning": frame.reasoning})
    if isinstance(frame, ProgressFrame):
        status = without_command(status_dict(frame.status))
        return _encode({"type": "progress", "waited_s": round(frame.elapsed_s, 1), "status": status})
    return _encode({"type": "done", **msgspec.to_builtins(frame)})


def _encode(frame: dict[str, Any]) -> bytes:
    return msgspec.json.encode(frame) + b"\n"
