"""Where a question goes in the tree, and what the model is sent for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from server_manager.chat_messages import Exchange
from server_manager.conversations import tree
from server_manager.conversations.images import Image
from server_manager.conversations.turn import CURRENT_LEAF, Header, Turn
from server_manager.errors import NotKept


@dataclass(frozen=True, slots=True)
class Wanted:
    """A question as it is asked."""

    text: str
    images: tuple[str, ...] = ()
    """Ids; of ``new_images`` or of those that the conversation has."""
    new_images: Mapping[str, Image] = field(default_factory=dict)
    parent: str | None = CURRENT_LEAF
    again: str | None = None
    """A turn whose question is asked anew beside it; text, images and parent are those of it then."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question in its place."""

    path: tuple[Turn, ...]
    """The turns before it."""
    text: str
    images: tuple[str, ...]
    known_images: Mapping[str, Image]
    """All those of the path and of this question, by id."""

    @property
    def parent(self) -> str | None:
        return self.path[-1].id if self.path else None

    def exchanges(self) -> list[Exchange]:
        """The path and the question, as the model is to see them."""
        before = [Exchange(turn.user, turn.assistant, self._urls(turn.images)) for turn in self.path]
        return [*before, Exchange(self.text, None, self._urls(self.images))]

    def _urls(self, images: Sequence[str]) -> tuple[str, ...]:
        return tuple(self.known_images[image].data_url for image in images if image in self.known_images)


def place(connection: sqlite3.Connection, head: Header, wanted: Wanted) -> Question:
    """Finds the place of a question in a conversation. Raises ``NotKept`` for turns and images it does not have."""
    if wanted.again is not None:
        again = tree.turn(connection, head.id, wanted.again)
        wanted = replace(wanted, text=again.user, images=again.images, new_images={}, parent=again.parent)
        above = tree.path(connection, head.id, again.parent)
    elif wanted.parent == CURRENT_LEAF:
        above = tree.path(connection, head.id, head.leaf)
    else:
        above = tree.path(connection, head.id, wanted.parent)
        if wanted.parent is not None and not above:
            raise NotKept("The turn to go on from is not in this conversation.", "Reload the page.")
    ids = [*tree.ids_of_images(above), *wanted.images]
    known = {**tree.images(connection, head.id, ids), **wanted.new_images}
    if missing := set(wanted.images) - known.keys():
        raise NotKept(f"The image {missing.pop()} is not in this conversation.", "Add it again.")
    return Question(above, wanted.text, wanted.images, known)


def first(wanted: Wanted) -> Question:
    """The question of a conversation that is not known yet. Raises ``NotKept`` where it refers to something in it."""
    if wanted.again is not None or wanted.parent:
        raise NotKept("There is no such conversation (any more).", "Reload the page.")
    if missing := set(wanted.images) - wanted.new_images.keys():
        raise NotKept(f"The image {missing.pop()} is not in this conversation.", "Add it again.")
    return Question((), wanted.text, wanted.images, wanted.new_images)
