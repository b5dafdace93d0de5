"""A fair queue of changes: who wishes first for memory of a GPU gets it first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Turn:
    """A server that is to come up, as long as room is being made for it."""

    name: str
    wants: frozenset[str] | None = None
    """Keys of the devices that it is about, by the newest plan; ``None``: not planned yet, it may be any."""

    def conflicts_with(self, other: Turn) -> bool:
        return self.wants is None or other.wants is None or bool(self.wants & other.wants)


class Turns:
    """All that are wished for. Methods belong to the event loop."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._queue: list[Turn] = []
        self._on_change = on_change

    @contextmanager
    def join(self, name: str) -> Iterator[Turn]:
        """A place at the end of the queue, given up when the block is left."""
        turn = Turn(name)
        self._queue.append(turn)
        try:
            yield turn
        finally:
            self._queue.remove(turn)
            self._on_change()

    def plan(self, turn: Turn, keys: frozenset[str]) -> None:
        """The devices that it is about now."""
        if turn.wants != keys:
            turn.wants = keys
            self._on_change()

    def has(self, name: str) -> bool:
        """Whether it is in the queue."""
        return any(turn.name == name for turn in self._queue)

    def before(self, turn: Turn) -> tuple[str, ...]:
        """Who has to go first, in their order: those who came earlier for one of the same devices."""
        earlier = self._queue[: self._queue.index(turn)]
        return tuple(other.name for other in earlier if turn.conflicts_with(other))
