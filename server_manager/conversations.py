"""The conversations, kept by the server: a closed tab loses nothing, and history is not sent to and fro."""

from __future__ import annotations

import contextlib
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from server_manager.errors import NotAllowed

_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


@dataclass(slots=True)
class Turn:
    """One question with its answer."""

    user: str
    assistant: str = ""
    reasoning: str = ""
    """What the model thought; shown, never sent back."""
    model: str = ""
    note: str = ""
    """Why the answer is not whole ("stopped", an error's message), else empty."""


@dataclass(slots=True)
class Conversation:
    """What was said between one person and the models, in order."""

    id: str
    owner: str
    turns: list[Turn] = field(default_factory=list)
    busy: bool = False

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Held while an answer is made. Raises ``NotAllowed`` where another tab already holds it."""
        if self.busy:
            raise NotAllowed("This conversation is being answered already.", "Wait for it, or stop it first.")
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

    def messages(self, system_prompt: str, until: int | None = None) -> list[dict[str, str]]:
        """The first ``until`` turns (all by default) as OpenAI's messages."""
        found = [{"role": "system", "content": system_prompt}] if system_prompt.strip() else []
        for turn in self.turns[:until]:
            found.append({"role": "user", "content": turn.user})
            found.append({"role": "assistant", "content": turn.assistant})
        return found


class ConversationStore:
    """Conversations by id, in memory; the one used longest ago goes when there are too many."""

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()

    def look(self, conversation_id: str, owner: str) -> Conversation:
        """The conversation as it is; a new one is empty and not kept. Raises as ``get`` does."""
        if not _ID.fullmatch(conversation_id):
            raise NotAllowed("That is not the id of a conversation.", "Reload the page.")
        found = self._conversations.get(conversation_id) or Conversation(conversation_id, owner)
        if found.owner != owner:
            raise NotAllowed("This conversation is somebody else's.", "Start a new one.")
        return found

    def get(self, conversation_id: str, owner: str) -> Conversation:
        """The conversation to add to. Raises ``NotAllowed`` for a malformed id or somebody else's."""
        found = self.look(conversation_id, owner)
        self._conversations[conversation_id] = found
        self._conversations.move_to_end(conversation_id)
        idle = (key for key, other in tuple(self._conversations.items()) if not other.busy and other is not found)
        while len(self._conversations) > self._limit and (oldest := next(idle, None)) is not None:
            del self._conversations[oldest]
        return found

    def clear(self, conversation_id: str, owner: str) -> None:
        """Forgets the turns. Raises ``NotAllowed`` while one is being written."""
        with (conversation := self.get(conversation_id, owner)).writing():
            conversation.turns.clear()
