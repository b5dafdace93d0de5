"""Tells what a model thinks from what it answers, where its server leaves ``<think>…</think>`` in the text.

Servers with a reasoning parser do that themselves. The others hand over the text as the model wrote it: with both
tags, or with the closing one alone, because the chat template has already written the opening one.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import NamedTuple

_OPEN, _CLOSE = "<think>", "</think>"
_CLOSE_ALONE = re.compile(r"(?:\A|\n)[ \t]*</think>")
"""At the beginning of a line, as models write it. Anywhere else it is more likely talked about."""


class Piece(NamedTuple):
    """What one piece of text turned out to be."""

    content: str = ""
    reasoning: str = ""
    recast: bool = False
    """All content until now was reasoning: its closing tag has just come, and there was no opening one."""


class _State(Enum):
    BEGINNING = auto()
    THINKING = auto()
    ANSWERING = auto()
    DECIDED = auto()
    """Answering, and no tag is looked for any more."""


class ThinkSplit:
    """Takes one answer piece by piece; a tag may be cut anywhere.

    An opening tag counts only where the answer begins with it, and no tag counts inside code. White space around the
    tags is left out, but what has been given out already.
    """

    def __init__(self, *, thinking: bool = False) -> None:
        """``thinking``: the chat template has opened the thinking already."""
        self._state = _State.THINKING if thinking else _State.BEGINNING
        self._held = ""
        """What cannot be told yet."""
        self._past: list[str] = []
        """What was given out since the last tag, to know where code begins and ends."""
        self._fresh = True
        """Whether nothing but white space has come since the last tag."""

    @property
    def decided(self) -> bool:
        """Whether all that comes is the answer, as it is."""
        return self._state is _State.DECIDED and not self._fresh

    def decide(self) -> None:
        """No tags are to be looked for, for example since the server tells by itself."""
        self._state = _State.DECIDED
        self._past.clear()

    def feed(self, text: str) -> Piece:
        """More of the text."""
        text, self._held = self._held + text, ""
        match self._state:
            case _State.BEGINNING:
                return self._beginning(text)
            case _State.THINKING:
                return self._thinking(text)
            case _State.ANSWERING:
                return self._answering(text)
            case _State.DECIDED:
                return self._fresh_content(text)

    def end(self) -> Piece:
        """What was held back, when the answer is over."""
        text, self._held = self._held, ""
        if self._state is _State.THINKING:
            return Piece(reasoning=text.rstrip())
        return Piece(content=text)

    def _beginning(self, text: str) -> Piece:
        start = text.lstrip()
        if start.startswith(_OPEN):
            self._state = _State.THINKING
            return self._thinking(start[len(_OPEN) :])
        if _OPEN.startswith(start):  # nothing yet, or a part of the tag
            self._held = text
            return Piece()
        self._state, self._fresh = _State.ANSWERING, False
        return self._answering(text)

    def _thinking(self, text: str) -> Piece:
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        found = text.find(_CLOSE)
        while found >= 0 and _in_code("".join(self._past) + text[:found]):
            found = text.find(_CLOSE, found + 1)
        if found >= 0:
            reasoning = text[:found].rstrip()
            self.decide()
            self._fresh = True
            return Piece(self._fresh_content(text[found + len(_CLOSE) :]).content, reasoning)
        tag = _begun_tag(text)
        return Piece(reasoning=self._given(text, len(text) - len(text[: len(text) - tag].rstrip())))

    def _answering(self, text: str) -> Piece:
        """Content, as long as no closing tag says otherwise."""
        if _CLOSE in text:
            past = "".join(self._past)
            whole = past + text
            if _OPEN in whole:
                self.decide()  # the tags are what it talks about
                return Piece(text)
            for found in _CLOSE_ALONE.finditer(whole):
                if not _in_code(whole[: found.start()]):
                    self.decide()
                    self._fresh = True
                    thought = whole[len(past) : found.start()].rstrip()
                    return Piece(self._fresh_content(whole[found.end() :]).content, thought, recast=True)
        return Piece(self._given(text, _begun_tag(text)))

    def _given(self, text: str, keep: int) -> str:
        """``text`` but its last ``keep`` characters, which wait for more."""
        cut = len(text) - keep
        self._held = text[cut:]
        self._past.append(text[:cut])
        return text[:cut]

    def _fresh_content(self, text: str) -> Piece:
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return Piece(text)


def _begun_tag(text: str) -> int:
    """How many characters at the end may turn out to be a closing tag."""
    last = text.rfind("<")
    return len(text) - last if last >= 0 and _CLOSE.startswith(text[last:]) else 0


def _in_code(before: str) -> bool:
    """Whether what follows stands in a fenced block or between backticks."""
    if before.count("```") % 2:
        return True
    return before[before.rfind("\n") + 1 :].replace("```", "").count("`") % 2 == 1
