"""What a conversation is made of: turns, each a question with its answer, and what stands above them."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

CURRENT_LEAF = ""
"""As a parent: the turn after which the conversation goes on as it is shown."""
STOPPED = "stopped"
"""The note of an answer that somebody broke off."""
INTERRUPTED = "vLLM Deck ended in the middle of this answer."
"""The note of a turn that is found unfinished when the app starts."""
TITLE_CHARS = 60
"""Of a title that is made from a question."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of an answer; ``None`` where it is not. Durations in seconds."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    """By the server where it counts them, else by the chunks that they came in (which is right to within a chunk)."""
    reasoning_s: float | None = None
    """From the first text of thinking to the first of the answer."""
    first_token_s: float | None = None
    """From sending the request to vLLM to its first text."""
    tokens_per_second: float | None = None
    """After the first token."""
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with its answer. Turns with the same parent are alternatives."""

    id: str
    parent: str | None
    """The turn before it; ``None`` at the beginning."""
    user: str
    images: tuple[str, ...] = ()
    """Ids, in the order in which they were given."""
    assistant: str = ""
    reasoning: str = ""
    """What the model thought; shown, never sent back."""
    model: str = ""
    note: str = ""
    """Why the answer is not whole (``stopped``, an error's message), else empty."""
    created: float = 0.0
    """Unix time in seconds."""
    figures: Figures = field(default_factory=Figures)


@dataclass(frozen=True, slots=True)
class Header:
    """A conversation without its turns."""

    id: str
    owner: str
    title: str = ""
    """From the first question, until somebody names it."""
    system_prompt: str = ""
    """That of the last question."""
    model: str = ""
    """The one asked last."""
    leaf: str | None = None
    """The last turn of what is shown."""
    created: float = 0.0
    updated: float = 0.0


def new_turn_id() -> str:
    """Unique among all turns."""
    return secrets.token_hex(12)


def title_of(question: str) -> str:
    """The first line of a question that says something, cut to a title's length; empty where there is none."""
    lines = (re.sub(r"\s+", " ", line).strip(" #*>`-") for line in question[:10_000].splitlines())
    line = next((line for line in lines if line), "")
    if len(line) <= TITLE_CHARS:
        return line
    cut = line[: TITLE_CHARS - 1]
    # At the end of a word, where there are words: Chinese has no spaces.
    at_word = cut.rpartition(" ")[0] if " " in cut[TITLE_CHARS // 2 :] else cut
    return f"{at_word.rstrip()}…"
