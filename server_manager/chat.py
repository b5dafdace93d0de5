"""From a question to the frames of its answer: the stations between the click and vLLM.

``ChatService.answer`` waits for the server (starting it where it is not up, with progress meanwhile), streams the
answer as frames, and keeps the turn. What comes of the answer is gathered as it comes; the frames are made from
whatever that is, the first at once and later ones some 40 ms apart, so that a slow page or a burst of tokens costs
frames and not time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, fields

from server_manager.answer_reader import AnswerReader, look_at
from server_manager.chat_frames import DoneFrame, Frame, ProgressFrame, TextFrame, TurnFrame
from server_manager.chat_messages import Message, chat_messages, most_tokens
from server_manager.client import ServerClient
from server_manager.conversations.images import read_images
from server_manager.conversations.question import Question, Wanted
from server_manager.conversations.store import ConversationStore, Writing
from server_manager.conversations.turn import CURRENT_LEAF, STOPPED, Figures
from server_manager.errors import ContextExceeded, NotAllowed, ServerManagerError
from server_manager.manager import Server, ServerManager
from server_manager.sampling import request_fields
from server_manager.stream_pace import StreamPace, frame_seconds
from server_manager.upstream import Connections

_PROGRESS_INTERVAL = 1.0
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
    parent: str | None = CURRENT_LEAF
    """The turn after which this one comes; ``None`` at the beginning."""
    again: str | None = None
    """The turn whose question is asked anew as its sibling; text, images and parent are ignored then."""
    images: Sequence[str] = ()
    """Data URLs, or ids of images that the conversation has."""
    thinking: bool | None = None
    """Whether to think first, where the model's template lets one choose; ``None``: as it does by itself."""
    keep: bool = True
    """Where the conversation is not known yet: whether it is kept, or stays in memory."""
    replace_from: int | None = None
    """Index on what is shown of the turn whose sibling this one becomes; counts where ``parent`` and ``again`` do not
    say where it goes."""


class ChatService:
    """Answers questions; one for the whole app."""

    def __init__(self, manager: ServerManager, conversations: ConversationStore) -> None:
        self._manager = manager
        self._conversations = conversations
        self._connections = Connections()
        self._pace = StreamPace()
        self._streaming = 0

    def close(self) -> None:
        """Closes the connections that wait for the next answer."""
        self._connections.close()

    async def answer(self, request: ChatRequest, *, owner: str, may_start: bool) -> AsyncGenerator[Frame, None]:
        """Streams one answer. Closing the generator aborts the request in vLLM and keeps the text so far.

        A turn without any text of an answer is not kept. Raises ``ServerManagerError`` of any kind, also in
        mid-answer; ``NotAllowed`` where the server is down and the user ``may_start`` none.
        """
        async with self._conversations.writing(request.conversation, owner, keep=request.keep) as writing:
            question = await writing.place(await _wanted(request))
            server = self._manager.server(request.model)
            if not may_start and not server.status.can_be_asked:
                raise NotAllowed(f"{request.model} is not up.", "Ask an operator to start it, or pick one that is.")
            # Until the last word: nobody puts the server to sleep meanwhile.
            async with AsyncExitStack() as in_use:
                async with aclosing(self._until_ready(server, in_use)) as progress:
                    async for frame in progress:
                        yield frame
                async with aclosing(self._stream(server, writing, question, request)) as frames:
                    async for turn_text_or_done in frames:
                        yield turn_text_or_done

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
            ready.add_done_callback(look_at)

    async def _stream(
        self, server: Server, writing: Writing, question: Question, request: ChatRequest
    ) -> AsyncGenerator[TurnFrame | TextFrame | DoneFrame, None]:
        exchanges = question.exchanges
        # Images are put into text: milliseconds each, in which nobody else would get any.
        messages = chat_messages(
            await asyncio.to_thread(exchanges) if question.known_images else exchanges(), request.system_prompt
        )
        client = server.client()
        body = {
            "model": server.status.served_model_name or request.model,
            "messages": messages,
            **await _bounded(request_fields(dict(request.sampling)), messages, client, server.status.max_model_len),
        }
        pace_of = (server.name, server.status.ready_at)
        if not server.status.attached:  # these fields are vLLM's own; another server may refuse what it does not know
            body |= {"stream_interval": self._pace.stream_interval(pace_of), "return_token_ids": True}
        reader = AnswerReader(server, client, self._connections, body)
        answer = writing.begin(question, request.system_prompt, request.model)
        self._streaming += 1
        note = STOPPED
        try:
            yield TurnFrame(answer.turn, answer.parent)
            while frame := await reader.next_text():
                if frame.recast:
                    answer.recast()
                answer.add(frame.content, frame.reasoning)
                yield frame
                answer.keep_up()
                await reader.pause(frame_seconds(self._streaming))
            note = ""
            done = reader.done()
            await answer.finish(_figures(done))
            yield done
        except ServerManagerError as error:
            note = str(error)
            raise
        finally:
            self._streaming -= 1
            reader.close()
            figures = reader.done()
            if figures.tokens_per_second:
                self._pace.learn(pace_of, figures.tokens_per_second)
            if note:
                answer.close(note, _figures(figures))


async def _wanted(request: ChatRequest) -> Wanted:
    ids, new = await asyncio.to_thread(read_images, request.images) if request.images else ((), {})
    return Wanted(request.text, ids, new, request.parent, request.again, request.replace_from)


def _figures(done: DoneFrame) -> Figures:
    return Figures(**{each.name: getattr(done, each.name) for each in fields(Figures)})


async def _bounded(
    fields: dict[str, float | int],
    messages: Sequence[Message],
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
