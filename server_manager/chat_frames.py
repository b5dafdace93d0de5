"""What an answer is told in: the frames from the question to its end."""

from __future__ import annotations

from dataclasses import dataclass

from server_manager.conversations.turn import Figures
from server_manager.server_state import ServerStatus


@dataclass(frozen=True, slots=True)
class ProgressFrame:
    """The server is not ready yet."""

    status: ServerStatus
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class TurnFrame:
    """The question is on its way to the model; the turn is kept as soon as there is text."""

    turn: str
    parent: str | None


@dataclass(frozen=True, slots=True)
class TextFrame:
    """More of the answer."""

    content: str
    reasoning: str
    tokens: int | None = None
    """Of the answer so far, thinking included; ``None`` where the server does not say."""
    recast: bool = False
    """All content before this frame was reasoning: only its closing tag has told."""


@dataclass(frozen=True, slots=True)
class DoneFrame(Figures):
    """The answer is over; these are its figures."""


Frame = ProgressFrame | TurnFrame | TextFrame | DoneFrame
