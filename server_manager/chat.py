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
from dataclasses import dataclass, field
from typing import Any

from server_manager.abilities.book import UNKNOWN, Abilities, AbilityBook
from server_manager.answer_reader import AnswerReader, look_at
from server_manager.chat_body import chat_body, check_images, question_body, think_split
from server_manager.chat_frames import DoneFrame, Frame, ProgressFrame, TextFrame, TurnFrame
from server_manager.chat_messages import Exchange, Message, chat_messages
from server_manager.conversations.images import Image, read_images
from server_manager.conversations.question import Question, Wanted
from server_manager.conversations.store import ConversationStore
from server_manager.conversations.turn import CURRENT_LEAF, STOPPED
from server_manager.conversations.writing import Writing
from server_manager.errors import NotAllowed, ServerManagerError
from server_manager.manager import Server, ServerManager
from server_manager.sampling import request_fields
from server_manager.stream_pace import StreamPace, frame_seconds
from server_manager.upstream import Connections
from server_manager.user_limit import UserLimit

_PROGRESS_INTERVAL = 1.0


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


@dataclass(frozen=True, slots=True)
class ChatPreview:
    """A request that is not sent."""

    body: Mapping[str, Any]
    """Of ``/v1/chat/completions``, with the name by which the gateway knows the model; without the streaming fields."""
    kept_images: Sequence[Image]
    """Those in it that the conversation has already."""


class ChatService:
    """Answers questions; one for the whole app."""

    def __init__(self, manager: ServerManager, conversations: ConversationStore) -> None:
        self._manager = manager
        self._conversations = conversations
        self.abilities = AbilityBook(manager.local_files)
        """What the models of the catalogue can do."""
        self._connections = Connections()
        self._pace = StreamPace()
        self._limit = UserLimit()
        self._streaming = 0

    def close(self) -> None:
        """Closes the connections that wait for the next answer."""
        self._connections.close()

    async def answer(
        self, request: ChatRequest, *, owner: str, may_start: bool, most: int | None = None
    ) -> AsyncGenerator[Frame, None]:
        """Streams one answer. Closing the generator aborts the request in vLLM and keeps the text so far.

        A turn without any text of an answer is not kept. Raises ``ServerManagerError`` of any kind, also in
        mid-answer; ``NotAllowed`` where the server is down and the user ``may_start`` none, ``TooManyAnswers`` where
        the user has ``most`` going on already.
        """
        async with AsyncExitStack() as held:
            fields = request_fields(dict(request.sampling))  # first: a mistake in it must not cost a start
            held.enter_context(self._limit.one_more(owner, most))
            writing = await held.enter_async_context(
                self._conversations.writing(request.conversation, owner, keep=request.keep)
            )
            question = await writing.place(await _wanted(request))
            server = self._server(request.model, may_start=may_start)
            messages, abilities = await _messages(question, request), await self._abilities(server)
            check_images(request.model, abilities, messages)
            # Held until the last word: nobody puts the server to sleep meanwhile.
            async with aclosing(self._until_ready(server, held)) as progress:
                async for frame in progress:
                    yield frame
            stream = self._stream(server, writing, question, request, fields, messages, abilities)
            async with aclosing(stream) as frames:
                async for turn_text_or_done in frames:
                    yield turn_text_or_done

    async def answer_alone(
        self, request: ChatRequest, *, owner: str, may_start: bool, most: int | None = None
    ) -> AsyncGenerator[str, None]:
        """The text so far, again and again, of an answer outside any conversation, without what the model thinks.

        By the ``openai`` client, for scripts. Of the request only ``model``, ``text``, ``system_prompt``, ``sampling``
        and ``thinking`` count. Raises as ``answer``.
        """
        async with AsyncExitStack() as held:
            fields = request_fields(dict(request.sampling))
            held.enter_context(self._limit.one_more(owner, most))
            server = self._server(request.model, may_start=may_start)
            abilities = await self._abilities(server)
            await held.enter_async_context(self._manager.use(server.name))
            client = server.client()
            body = await question_body(
                request.model,
                server.status,
                client,
                chat_messages([Exchange(request.text, None)], request.system_prompt),
                fields=fields,
                template_kwargs=abilities.template_kwargs(request.thinking),
            )
            split, text = think_split(abilities, request.thinking), ""
            async with aclosing(client.stream_with_openai(body)) as pieces:
                async for piece in pieces:
                    found = split.feed(piece)
                    text = found.content if found.recast else text + found.content
                    if found.content or found.recast:
                        yield text
            if rest := split.end().content:
                yield text + rest

    async def preview(self, request: ChatRequest, *, owner: str) -> ChatPreview:
        """What ``answer`` would send now. Nothing is asked, started or kept. Raises as that does."""
        server = self._manager.server(request.model)
        wanted = await _wanted(request)
        question = await self._conversations.place(request.conversation, owner, wanted)
        messages = await _messages(question, request)
        abilities = await self._abilities(server)
        check_images(request.model, abilities, messages)
        body = await question_body(
            request.model,
            server.status,
            server.client() if server.status.can_be_asked else None,
            messages,
            fields=request_fields(dict(request.sampling)),
            template_kwargs=abilities.template_kwargs(request.thinking),
        )
        kept = tuple(image for key, image in question.known_images.items() if key not in wanted.new_images)
        return ChatPreview({**body, "model": request.model}, kept)

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

    def _server(self, name: str, *, may_start: bool) -> Server:
        """Raises ``UnknownModel``, or ``NotAllowed`` where it is down and the user may not start it."""
        server = self._manager.server(name)
        if not may_start and not server.status.can_be_asked:
            raise NotAllowed(f"{name} is not up.", "Ask an operator to start it, or pick one that is.")
        return server

    async def _abilities(self, server: Server) -> Abilities:
        if server.status.attached or server.name not in self._manager.catalogue.names():
            return UNKNOWN  # or adopted, and its model's file is gone
        return (await self.abilities.of([self._manager.catalogue.get(server.name)]))[server.name]

    async def _stream(
        self,
        server: Server,
        writing: Writing,
        question: Question,
        request: ChatRequest,
        fields: Mapping[str, float | int],
        messages: list[Message],
        abilities: Abilities,
    ) -> AsyncGenerator[TurnFrame | TextFrame | DoneFrame, None]:
        client = server.client()
        pace_of = (server.name, server.status.ready_at)
        body = await chat_body(
            request.model,
            server.status,
            client,
            messages,
            fields=fields,
            template_kwargs=abilities.template_kwargs(request.thinking),
            stream_interval=self._pace.stream_interval(pace_of),
        )
        reader = AnswerReader(server, client, self._connections, body, think_split(abilities, request.thinking))
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
            await answer.finish(done)
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
                answer.close(note, figures)


async def _messages(question: Question, request: ChatRequest) -> list[Message]:
    # Images are put into text: milliseconds each, in which nobody else would get any.
    exchanges = await asyncio.to_thread(question.exchanges) if question.known_images else question.exchanges()
    return chat_messages(exchanges, request.system_prompt)


async def _wanted(request: ChatRequest) -> Wanted:
    ids, new = await asyncio.to_thread(read_images, request.images) if request.images else ((), {})
    return Wanted(request.text, ids, new, request.parent, request.again)
