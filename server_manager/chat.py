"""From a question to the frames of its answer: the stations between the click and vLLM.

``ChatService.answer`` waits for the server (starting it where it is not up, with progress meanwhile), streams the
answer as frames, and keeps the turn. A reader task takes every token as it comes; the frames are made from whatever
has gathered, the first at once and later ones some 40 ms apart, so that a slow page or a burst of tokens costs frames
and not time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

from server_manager.client import ServerClient
from server_manager.conversations import Conversation, ConversationStore, Turn
from server_manager.errors import ContextExceeded, NotAllowed, RequestRejected, ServerManagerError, ServerUnreachable
from server_manager.manager import Server, ServerManager
from server_manager.sampling import request_fields
from server_manager.server_state import ExitCause, ServerState, ServerStatus

_FRAME_INTERVAL = 0.04
_CHATS_PER_INTERVAL = 32
"""With more chats at once the frames come further apart in proportion: people read no faster for it."""
_PROGRESS_INTERVAL = 1.0
_END_PATIENCE = 15.0
"""How long an answer that broke off waits for its server's end: vLLM takes 5 s to exit when its engine has died."""
_TEMPLATE_TOKENS = 512
"""More than any chat template adds by itself (default system prompts, role marks)."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What the page posts."""

    conversation: str
    model: str
    text: str = ""
    system_prompt: str = ""
    sampling: Mapping[str, float | int | None] = field(default_factory=dict)
    replace_from: int | None = None
    """Index of the turn that this one takes the place of, with all that follow it: Edit and Regenerate."""


@dataclass(frozen=True, slots=True)
class ProgressFrame:
    """The server is not ready yet."""

    status: ServerStatus
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class TextFrame:
    """More of the answer."""

    content: str
    reasoning: str


@dataclass(frozen=True, slots=True)
class DoneFrame:
    """The answer is over."""

    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    first_token_s: float | None
    """From sending the request to vLLM to its first text, in seconds."""
    tokens_per_second: float | None
    """After the first token."""


Frame = ProgressFrame | TextFrame | DoneFrame


class ChatService:
    """Answers questions; one for the whole app."""

    def __init__(self, manager: ServerManager, conversations: ConversationStore) -> None:
        self._manager = manager
        self._conversations = conversations
        self._streaming = 0

    async def answer(self, request: ChatRequest, *, owner: str, may_start: bool) -> AsyncGenerator[Frame, None]:
        """Streams one answer. Closing the generator aborts the request in vLLM and keeps the text so far.

        A turn without any text of an answer is not kept. Raises ``ServerManagerError`` of any kind, also in
        mid-answer; ``NotAllowed`` where the server is down and the user ``may_start`` none.
        """
        conversation = self._conversations.get(request.conversation, owner)
        with conversation.writing():
            server = self._manager.server(request.model)
            if not may_start and not server.status.can_be_asked:
                raise NotAllowed(f"{request.model} is not up.", "Ask an operator to start it, or pick one that is.")
            # Until the last word: nobody puts the server to sleep meanwhile.
            async with AsyncExitStack() as in_use:
                async with aclosing(self._until_ready(server, in_use)) as progress:
                    async for frame in progress:
                        yield frame
                turn = Turn(request.text, model=request.model)
                async with aclosing(self._stream(server, conversation, request, turn)) as frames:
                    async for text_or_done in frames:
                        yield text_or_done

    async def _until_ready(self, server: Server, in_use: AsyncExitStack) -> AsyncGenerator[ProgressFrame, None]:
        began = time.monotonic()
        ready = asyncio.ensure_future(in_use.enter_async_context(self._manager.use(server.name)))
        try:
            while not ready.done():
                await asyncio.wait({ready}, timeout=_PROGRESS_INTERVAL)
                if not ready.done():
                    yield ProgressFrame(server.status, time.monotonic() - began)
            ready.result()
        finally:
            ready.cancel()  # ends the waiting, not the start
            ready.add_done_callback(_look_at)

    async def _stream(
        self, server: Server, conversation: Conversation, request: ChatRequest, turn: Turn
    ) -> AsyncGenerator[TextFrame | DoneFrame, None]:
        keep = len(conversation.turns) if request.replace_from is None else max(request.replace_from, 0)
        messages = conversation.messages(request.system_prompt, keep)
        messages.append({"role": "user", "content": request.text})
        client = server.client()
        body = {
            "model": server.status.served_model_name or request.model,
            "messages": messages,
            **await _bounded(request_fields(dict(request.sampling)), messages, client, server.status.max_model_len),
        }
        reader = _Reader(server, client, body)
        self._streaming += 1
        finished = False
        try:
            while frame := await reader.next_text():
                turn.assistant += frame.content
                turn.reasoning += frame.reasoning
                yield frame
                await reader.pause(_FRAME_INTERVAL * max(1.0, self._streaming / _CHATS_PER_INTERVAL))
            finished = True
            yield reader.done()
        except ServerManagerError as error:
            turn.note = str(error)
            raise
        finally:
            self._streaming -= 1
            reader.close()
            if not finished and not turn.note:
                turn.note = "stopped"
            if turn.assistant or turn.reasoning:
                conversation.turns[keep:] = [turn]


class _Reader:
    """Takes the tokens of one answer from vLLM as they come."""

    def __init__(self, server: Server, client: ServerClient, body: Mapping[str, object]) -> None:
        self._server = server
        self._client = client
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._news = asyncio.Event()
        self._began = time.monotonic()
        self._first_at: float | None = None
        self._ended_at = 0.0
        self._finish_reason: str | None = None
        self._prompt_tokens: int | None = None
        self._completion_tokens: int | None = None
        self._task = asyncio.create_task(self._read(client, body), name=f"answer of {server.name}")
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        _look_at(task)
        self._news.set()

    async def _read(self, client: ServerClient, body: Mapping[str, object]) -> None:
        with self._server.stream_lease():
            async with aclosing(client.stream_chat(body)) as deltas:
                async for delta in deltas:
                    self._finish_reason = delta.finish_reason or self._finish_reason
                    if delta.prompt_tokens is not None:
                        self._prompt_tokens = delta.prompt_tokens
                        self._completion_tokens = delta.completion_tokens
                    if not (delta.content or delta.reasoning):
                        continue  # the first chunk only names the role: it must not use up the first frame
                    if self._first_at is None:
                        self._first_at = time.monotonic()
                    self._content.append(delta.content)
                    self._reasoning.append(delta.reasoning)
                    self._news.set()
        self._ended_at = time.monotonic()

    async def next_text(self) -> TextFrame | None:
        """Everything since the last frame, or ``None`` at the end. Raises what ended the answer too early."""
        await self._news.wait()
        if not self._content:
            await self._raise_failure()  # only its end makes news without text
            return None
        frame = TextFrame("".join(self._content), "".join(self._reasoning))
        self._content.clear()
        self._reasoning.clear()
        if not self._task.done():
            self._news.clear()
        return frame

    async def pause(self, seconds: float) -> None:
        """Until the next frame is due, or the answer is over."""
        await asyncio.wait({self._task}, timeout=seconds)

    async def _raise_failure(self) -> None:
        """Nothing, where the reading went well to its end."""
        if self._task.cancelled():
            raise self._stopped()
        match self._task.exception():
            case None:
                return
            case ServerUnreachable() as error:
                raise await self._why_broken(error) from error
            case RequestRejected() as error if error.facts.get("status") == 500:
                raise await self._why_broken(error) from error  # vLLM says so when its engine dies
            case error:
                raise error

    async def _why_broken(self, error: ServerManagerError) -> ServerManagerError:
        """A broken answer in terms of what became of the server, as soon as that is known."""
        deadline = time.monotonic() + _END_PATIENCE
        while not self._server.status.attached and time.monotonic() < deadline:
            status = self._server.status
            if status.state in (ServerState.READY, ServerState.ASLEEP):
                if await self._client.health() == 200:
                    break  # the server lives: it was this answer alone
            elif status.state is not ServerState.STOPPING:
                if status.exit is None:  # started anew already
                    break
                if status.exit.cause is ExitCause.STOPPED:
                    return self._stopped()
                return ServerUnreachable(
                    f"The answer broke off. {status.exit.message}",
                    "Send again to start it.",
                    name=status.name,
                    exit=status.exit,
                )
            await asyncio.sleep(0.1)
        return error

    def _stopped(self) -> ServerUnreachable:
        name = self._server.name
        if self._server.status.state in (ServerState.READY, ServerState.ASLEEP):
            return ServerUnreachable(
                f"{name} had to make room for another model in the middle of the answer.", "Send again to wake it."
            )
        return ServerUnreachable(f"{name} was stopped in the middle of the answer.", "Send again to start it.")

    def close(self) -> None:
        """Closes the connection, which aborts the request in vLLM."""
        self._task.cancel()

    def done(self) -> DoneFrame:
        """The figures of the whole answer."""
        rate = None
        if self._first_at is not None and self._completion_tokens and self._completion_tokens > 1:
            rate = (self._completion_tokens - 1) / max(self._ended_at - self._first_at, 1e-6)
        return DoneFrame(
            finish_reason=self._finish_reason,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            first_token_s=self._first_at - self._began if self._first_at is not None else None,
            tokens_per_second=rate,
        )


def _look_at(task: asyncio.Future[Any]) -> None:
    """Takes the exception of a task that nobody may be left to await; asyncio would report it otherwise."""
    if not task.cancelled():
        task.exception()


async def _bounded(
    fields: dict[str, float | int],
    messages: Sequence[Mapping[str, str]],
    client: ServerClient,
    max_model_len: int | None,
) -> dict[str, float | int]:
    """The sampling fields with ``max_tokens`` at most what the context leaves. Raises ``ContextExceeded``.

    A token is at least one byte, so a conversation whose bytes and ``max_tokens`` fit together need not be counted;
    only one that comes near the limit is tokenized, which costs a round trip.
    """
    if max_model_len is None:
        return fields
    wanted = int(fields.get("max_tokens", max_model_len))
    upper_bound = sum(len(message["content"].encode()) + 16 for message in messages) + _TEMPLATE_TOKENS
    if upper_bound + wanted <= max_model_len:
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
