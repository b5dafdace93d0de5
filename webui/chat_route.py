"""The route that the page's chat reads: one JSON frame a line, as the answer is made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Message, Send

from server_manager import ChatRequest, DoneFrame, ProgressFrame, ServerManagerError, TextFrame, TurnFrame
from webui.body_limit import LimitedRoute
from webui.conversation_routes import Text
from webui.errors import error_dict
from webui.rest import AnyUser, Context
from webui.snapshot import status_dict, without_command

log = logging.getLogger(__name__)


class QuestionRoute(LimitedRoute):
    """A route whose requests are let through a few at a time, until each has its first frame."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def in_turn(request: Request) -> Response:
            request.state.next_may_come = leave = await request.app.state.doorstep.enter()
            try:
                return await handle(request)
            except BaseException:
                leave()
                raise

        return in_turn


router = APIRouter(route_class=QuestionRoute)
Frame = TextFrame | TurnFrame | ProgressFrame | DoneFrame
Number = int | Annotated[float, Field(allow_inf_nan=False)]


class Question(BaseModel):
    """What the page sends for one answer."""

    conversation: str = Field(description="Any id of 8 to 64 letters and digits; the same one goes on a conversation.")
    model: str = Field(description="A name of the catalogue.")
    text: Text = ""
    system_prompt: Text = ""
    sampling: dict[str, Number | None] = Field(default_factory=dict)
    parent: str | None = Field(
        None,
        description="Id of the turn before it; null: it is at the beginning; absent: after the current one.",
    )
    again: str | None = Field(None, description="Id of the turn whose question is asked anew, as its sibling.")
    images: list[str] = Field(
        default_factory=list, description="Data URLs of PNG, JPEG, WebP or GIF, or ids of images of this conversation."
    )
    thinking: bool | None = Field(None, description="Whether to think first; null: as the model does by itself.")
    keep: bool = Field(True, description="False: a conversation that does not exist yet stays in memory.")


@router.post("/api/chat", response_class=StreamingResponse)
async def chat(question: Question, context: Context, user: AnyUser, request: Request) -> StreamingResponse:
    """Streams an answer as lines of JSON: `progress`, `turn`, `text`, and last `done` or `error`.

    A model that is not up is started first. Closing the connection aborts the request in vLLM.
    """
    answer = context.chat.answer(
        chat_request(question), owner=user.name, may_start=user.is_operator, most=context.answers_per_user
    )
    frames = _lines(answer, request.state.next_may_come)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return AnswerResponse(frames, context.settings.switch_patience, headers)


class AnswerResponse(StreamingResponse):
    """Frames for a client that may stop to read without a word: a computer that went to sleep, a lost network.

    TCP alone would notice after many minutes, in which the answer's server could not make room for another one.
    """

    def __init__(self, frames: AsyncGenerator[bytes, None], patience: float, headers: dict[str, str]) -> None:
        """``patience``: seconds in which nothing can be sent, after which the client counts as gone."""
        super().__init__(frames, media_type="application/x-ndjson", headers=headers)
        self._frames = frames
        self._patience = patience

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self._patience):
                    await send(message)
            except TimeoutError:
                raise _NotReading from None

        async with aclosing(self._frames):
            try:
                await super().stream_response(send_in_time)
            except _NotReading:  # without an end of the body: the connection is cut
                log.info("an answer was given up, because its client did not read it for %.0f s", self._patience)


class _NotReading(Exception):
    """The client takes nothing any more."""


def chat_request(question: Question) -> ChatRequest:
    """The same for the package that answers it."""
    given = {name: getattr(question, name) for name in Question.model_fields}
    if "parent" not in question.model_fields_set:
        del given["parent"]  # null would be the beginning
    return ChatRequest(**given)


async def _lines(answer: AsyncGenerator[Frame, None], next_may_come: Callable[[], None]) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(answer) as frames:
            async for frame in frames:
                next_may_come()
                yield _line(frame)
    except ServerManagerError as error:
        yield _encode({"type": "error", **error_dict(error)})
    except Exception:  # the status line is long sent: without this the page would only see a connection that ends
        log.exception("an answer failed unexpectedly")
        yield _encode(
            {"type": "error", "code": "mistake", "message": "vLLM Deck made a mistake.", "next_step": "See its log."}
        )
    finally:
        next_may_come()


def _line(frame: Frame) -> bytes:
    if isinstance(frame, TextFrame):
        return _encode_text(frame)
    if isinstance(frame, TurnFrame):
        return _encode({"type": "turn", "turn": frame.turn, "parent": frame.parent})
    if isinstance(frame, ProgressFrame):
        status = without_command(status_dict(frame.status))
        return _encode({"type": "progress", "waited_s": round(frame.elapsed_s, 1), "status": status})
    return _encode({"type": "done", **msgspec.to_builtins(frame)})


def _encode_text(frame: TextFrame) -> bytes:
    found = {"type": "text", "content": frame.content, "reasoning": frame.reasoning, "tokens": frame.tokens}
    return _encode(found | {"recast": True} if frame.recast else found)


def _encode(frame: dict[str, Any]) -> bytes:
    return msgspec.json.encode(frame) + b"\n"
