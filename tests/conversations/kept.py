"""A store of conversations in a file, and questions that are answered without a model."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from server_manager.conversations.images import read_images
from server_manager.conversations.question import Wanted
from server_manager.conversations.store import ConversationStore
from server_manager.conversations.turn import CURRENT_LEAF, Figures, Turn

ID = "conversation-1"


def url_of(data: bytes, kind: str = "image/png") -> str:
    """A data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


PNG = url_of(b"\x89PNG\r\n\x1a\n" + b"pixels")
GIF = url_of(b"GIF89a...", "image/gif")


class Kept:
    """One store over a file; ``reopen`` is what the next run of the app finds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[str] = []
        self.store = ConversationStore(path, self.notices)

    async def reopen(self) -> None:
        await self.store.close()
        self.notices = []
        self.store = ConversationStore(self.path, self.notices)
        await self.store.open()

    async def ask(
        self,
        text: str,
        answer: str = "yes",
        *,
        conversation: str = ID,
        owner: str = "anna",
        keep: bool = True,
        note: str = "",
        images: Sequence[str] = (),
        parent: str | None = CURRENT_LEAF,
        again: str | None = None,
        system_prompt: str = "",
    ) -> str:
        """One turn; its id. With a ``note`` it is broken off."""
        ids, new = read_images(images)
        async with self.store.writing(conversation, owner, keep=keep) as writing:
            question = await writing.place(Wanted(text, ids, new, parent, again))
            made = writing.begin(question, system_prompt, "model-1")
            made.add(answer, "")
            made.keep_up()
            if note:
                made.close(note)
            else:
                await made.finish(Figures(completion_tokens=7))
        return made.turn

    async def turns(self, conversation: str = ID, owner: str = "anna") -> Sequence[Turn]:
        return (await self.store.look(conversation, owner)).turns

    async def said(self, conversation: str = ID, owner: str = "anna") -> list[tuple[str, str]]:
        return [(turn.user, turn.assistant) for turn in await self.turns(conversation, owner)]

    async def titles(self, query: str = "", owner: str = "anna") -> list[str]:
        return [each.title for each in await self.store.listed(owner, query)]

    async def change(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Changes the file past the store, in one transaction."""
        await asyncio.wrap_future(self.store._shelf.change_file(work))

    def files_hold(self, text: str) -> list[str]:
        """The files of the folder that hold a text."""
        return [each.name for each in self.path.parent.iterdir() if text.encode() in each.read_bytes()]
