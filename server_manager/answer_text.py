"""One answer as far as it has come: its text, what of it is thinking, and its figures."""

from __future__ import annotations

import time

from server_manager.chat_events import ChatDelta, ChatEvents
from server_manager.chat_frames import DoneFrame, TextFrame
from server_manager.think_split import ThinkSplit


class AnswerText:
    """Gathers the pieces of an answer until they are taken as a frame."""

    def __init__(self, events: ChatEvents, split: ThinkSplit) -> None:
        self._events = events
        self._split = split
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._recast = False
        self._began = time.monotonic()
        self._first_at: float | None = None
        self._answer_at: float | None = None
        """Of the first text that is no thinking."""
        self._ended_at: float | None = None
        self._thought = False
        self._tokens: int | None = None
        self._reasoning_tokens: int | None = None

    def feed(self, data: bytes) -> None:
        """More bytes of the answer. Raises as ``ChatEvents.read``; what stands before the error counts."""
        for event in self._events.split(data):
            if (delta := self._events.read(event)) is not None:
                self._add(delta)

    def _add(self, delta: ChatDelta) -> None:
        content, reasoning, recast = delta.content, delta.reasoning, False
        if reasoning:
            self._split.decide()  # the server tells thinking apart by itself
        elif not self._split.decided:
            content, reasoning, recast = self._split.feed(content)
        if delta.tokens is not None:
            self._count(delta.tokens, content, reasoning, recast)
        if content or reasoning or recast:
            self._gather(content, reasoning, recast)

    def _gather(self, content: str, reasoning: str, recast: bool) -> None:
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
        if recast:
            self._reasoning[:] = ["".join((*self._reasoning, *self._content))]
            self._content.clear()
            self._recast, self._answer_at = True, None
        if reasoning or recast:
            self._thought = True
        if content and self._answer_at is None:
            self._answer_at = now
        self._content.append(content)
        self._reasoning.append(reasoning)

    def _count(self, tokens: int, content: str, reasoning: str, recast: bool) -> None:
        """A chunk with both (the one in which thinking ends) is shared by the length of the texts."""
        if recast:
            self._reasoning_tokens = self._tokens
        self._tokens = (self._tokens or 0) + tokens
        if reasoning:
            share = len(reasoning) / len(content + reasoning)
            self._reasoning_tokens = (self._reasoning_tokens or 0) + round(tokens * share)

    def end(self) -> None:
        """Nothing more comes."""
        if self._ended_at is None:
            self._ended_at = time.monotonic()
            content, reasoning, recast = self._split.end()
            if content or reasoning:
                self._gather(content, reasoning, recast)

    def take(self, *, last: bool) -> TextFrame | None:
        """All that has gathered, ``None`` where that is nothing."""
        if last:
            self.end()
        if not self._content:
            return None
        tokens = self._tokens if self._tokens is not None else self._events.completion_tokens
        frame = TextFrame("".join(self._content), "".join(self._reasoning), tokens, self._recast)
        self._content.clear()
        self._reasoning.clear()
        self._recast = False
        return frame

    def figures(self) -> DoneFrame:
        """What is known of the answer so far."""
        ended = self._ended_at or time.monotonic()
        completion = self._events.completion_tokens if self._events.completion_tokens is not None else self._tokens
        first = self._first_at
        rate = None
        if first is not None and completion and completion > 1:
            rate = (completion - 1) / max(ended - first, 1e-6)
        return DoneFrame(
            finish_reason=self._events.finish_reason,
            prompt_tokens=self._events.prompt_tokens,
            completion_tokens=completion,
            first_token_s=first - self._began if first is not None else None,
            tokens_per_second=rate,
            reasoning_tokens=self._known_reasoning_tokens(),
            reasoning_s=(self._answer_at or ended) - first if self._thought and first is not None else None,
        )

    def _known_reasoning_tokens(self) -> int | None:
        """vLLM's count, which is exact, but 0 where the template opens the thinking; then ours, by chunks."""
        told = self._events.reasoning_tokens
        if told == 0 and self._thought:
            told = None
        return told if told is not None else self._reasoning_tokens
