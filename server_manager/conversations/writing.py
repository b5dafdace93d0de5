"""One conversation while somebody asks in it: where the question goes, and the answer that is made."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import replace

from server_manager.conversations import question as questions
from server_manager.conversations import tree
from server_manager.conversations.answer import KeptAnswer
from server_manager.conversations.question import Question, Wanted
from server_manager.conversations.shelf import Shelf
from server_manager.conversations.tree import Draft
from server_manager.conversations.turn import Header, Turn, new_turn_id
from server_manager.errors import StateDirError


class Writing:
    """One conversation while somebody asks in it."""

    def __init__(self, shelf: Shelf, conversation: str, owner: str, *, keep: bool) -> None:
        self._shelf = shelf
        self._conversation = conversation
        self.owner = owner
        self._keep = keep
        self._header = Header(conversation, owner)
        self.answer: KeptAnswer | None = None
        self.over = False
        """Nothing comes any more; what came may still be on its way to the disk."""
        self.released = asyncio.Event()

    async def place(self, wanted: Wanted) -> Question:
        """Finds the place of the question and loads what stands before it, once. Raises as the store's ``place``."""
        self._shelf.touch(self._conversation)
        head, question = await place(self._shelf, self._conversation, self.owner, wanted)
        if head is not None:
            self._header = head
        elif not self._keep:
            self._shelf.add_temporary(self._conversation)
        return question

    def begin(self, question: Question, system_prompt: str, model: str) -> KeptAnswer:
        """The answer to a question, which is kept from its first text on."""
        turn = Turn(
            id=new_turn_id(),
            parent=question.parent,
            user=question.text,
            images=question.images,
            model=model,
            created=time.time(),
        )
        head = replace(self._header, system_prompt=system_prompt, model=model)
        draft = Draft(head, question.path, turn, unfinished=True, images=question.known_images)
        self.answer = KeptAnswer(draft, self._shelf.save)
        return self.answer


async def place(shelf: Shelf, conversation: str, owner: str, wanted: Wanted) -> tuple[Header | None, Question]:
    """The conversation, if it is known, and the question in its place. Raises ``NotAllowed``, ``NotKept``.

    Where the file cannot be read, a question that refers to nothing in it begins a new conversation.
    """

    def find(connection: sqlite3.Connection) -> tuple[Header | None, Question]:
        if tree.header(connection, conversation) is None:
            return None, questions.first(wanted)
        head = tree.owned(connection, conversation, owner)
        return head, questions.place(connection, head, wanted)

    try:
        return await shelf.read(conversation, find)
    except StateDirError:
        if wanted.again is not None or wanted.parent:
            raise  # to answer without what was said before would be no answer
        return None, questions.first(wanted)
