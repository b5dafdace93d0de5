"""Takes the answer to one question from vLLM as it comes, and says what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from server_manager.chat_frames import DoneFrame, TextFrame
from server_manager.client import ServerClient
from server_manager.errors import RequestRejected, ServerManagerError, ServerUnreachable
from server_manager.manager import Server
from server_manager.server_state import ExitCause, ServerState

_END_PATIENCE = 15.0
"""How long an answer that broke off waits for its server's end: vLLM takes 5 s to exit when its engine has died."""


class AnswerReader:
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
        look_at(task)
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


def look_at(task: asyncio.Future[Any]) -> None:
    """Takes the exception of a task that nobody may be left to await; asyncio would report it otherwise."""
    if not task.cancelled():
        task.exception()
