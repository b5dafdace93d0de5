"""Takes the answer to one question from vLLM as it comes, and says what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from server_manager.answer_text import AnswerText
from server_manager.chat_events import ChatEvents
from server_manager.chat_frames import DoneFrame, TextFrame
from server_manager.chat_refusals import rejection
from server_manager.client import ServerClient
from server_manager.errors import RequestRejected, ServerManagerError, ServerUnreachable
from server_manager.manager import Server
from server_manager.server_state import ExitCause, ServerState
from server_manager.think_split import ThinkSplit
from server_manager.upstream import Connections, UpstreamAnswer

_END_PATIENCE = 15.0
"""How long an answer that broke off waits for its server's end: vLLM takes 5 s to exit when its engine has died."""
_HEADERS = ((b"content-type", b"application/json"), (b"accept", b"text/event-stream"))


class AnswerReader:
    """One answer. What comes is gathered as bytes and read when a frame is due: no task wakes up for a token.

    A task of its own holds the connection, since a stop of the server ends it by cancelling whoever holds that.
    """

    def __init__(
        self,
        server: Server,
        client: ServerClient,
        connections: Connections,
        body: Mapping[str, Any],
        split: ThinkSplit,
    ) -> None:
        """Sends the request; ``body`` is that of ``/v1/chat/completions`` without the fields for streaming."""
        self._server = server
        self._client = client
        self._events = ChatEvents()
        self._text = AnswerText(self._events, split)
        self._answer: UpstreamAnswer | None = None
        self._failure: ServerManagerError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._resting = False
        self._over = asyncio.Event()
        request = {**body, "stream": True, "stream_options": {"include_usage": True}}
        self._task = asyncio.create_task(
            self._hold(connections, msgspec.json.encode(request)), name=f"answer of {server.name}"
        )
        self._task.add_done_callback(self._ended)

    async def _hold(self, connections: Connections, request: bytes) -> None:
        """The connection, until all of the answer has come. Raises what kept it from coming."""
        with self._server.stream_lease():
            async with connections.pass_on(self._client, "POST", "/v1/chat/completions", _HEADERS, request) as answer:
                if answer.status != 200:
                    raise rejection(answer.status, await answer.read_all())
                self._answer = answer
                answer.listen(self._news)
                self._news()
                await self._over.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        look_at(task)
        self._wake()

    def _news(self) -> None:
        """More has come, or the end."""
        assert self._answer is not None
        if self._answer.over or not self._resting:
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def next_text(self) -> TextFrame | None:
        """Everything since the last frame, or ``None`` at the end. Raises what ended the answer too early."""
        while True:
            if self._failure is None:
                self._read()
            if frame := self._text.take(last=self._is_over):
                return frame
            if self._is_over:
                await self._raise_failure()
                return None
            await self._wait()

    @property
    def _is_over(self) -> bool:
        """Whether nothing more will come."""
        return (
            self._events.finished
            or self._failure is not None
            or self._task.done()
            or (self._answer is not None and self._answer.over)
        )

    def _read(self) -> None:
        if self._answer is None:
            return
        if data := self._answer.take():
            try:
                self._text.feed(data)
            except ServerManagerError as error:
                self._failure = error
        if self._is_over:
            self._text.end()
            self._over.set()

    async def pause(self, seconds: float) -> None:
        """Until the next frame is due, or the answer is over."""
        if self._is_over:
            return
        timer = asyncio.get_running_loop().call_later(seconds, self._wake)
        self._resting = True
        try:
            await self._wait()
        finally:
            self._resting = False
            timer.cancel()

    async def _raise_failure(self) -> None:
        """Nothing, where the answer is whole."""
        if self._failure is None and self._events.finished:
            return
        if self._failure is None and self._task.cancelled():
            raise self._stopped()
        error: BaseException | None = self._failure
        if error is None and self._task.done():
            error = self._task.exception()
        match error:
            case None:
                # An API server that is killed closes the socket like one that is done; only [DONE] tells them apart.
                broken = ServerUnreachable(
                    "The answer broke off: the server closed the connection.", base_url=self._client.base_url
                )
                raise await self._why_broken(broken) from None
            case ServerUnreachable():
                raise await self._why_broken(error) from error
            case RequestRejected() if error.facts.get("status") == 500:
                raise await self._why_broken(error) from error  # vLLM says so when its engine dies
            case _:
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
        self._text.end()
        if self._events.finished:
            self._over.set()  # whole: the connection is good for another answer
        else:
            self._task.cancel()

    def done(self) -> DoneFrame:
        """The figures of the answer, as far as it has come."""
        return self._text.figures()


def look_at(task: asyncio.Future[Any]) -> None:
    """Takes the exception of a task that nobody may be left to await; asyncio would report it otherwise."""
    if not task.cancelled():
        task.exception()
