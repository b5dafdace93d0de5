"""Sentences that are put together from parts, so that a page can say them in another language.

A ``Phrase`` is a code and its facts; English stands in this package, each other language has a template for each code
(``webui/locales``), with the same placeholders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LIST_COMMA, LIST_AND = "list_comma", "list_and"
"""Codes of what stands between the parts of a list: "A, B and C"."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of a sentence."""

    code: str
    facts: Mapping[str, object] = field(default_factory=dict)
    """Texts, phrases, or tuples of such, which become a list."""


class Sentence(str):
    """A text that knows the phrases of which it was made."""

    phrases: tuple[Phrase, ...]

    @classmethod
    def of(cls, phrases: Sequence[Phrase], templates: Mapping[str, str]) -> Sentence:
        found = cls(render(phrases, templates))
        found.phrases = tuple(phrases)
        return found


def phrases_of(text: str) -> tuple[Phrase, ...]:
    """Those of a ``Sentence``; none of a plain text."""
    return text.phrases if isinstance(text, Sentence) else ()


def render(phrases: Sequence[Phrase], templates: Mapping[str, str]) -> str:
    """The phrases one after the other. Raises ``KeyError`` where a template, or a fact for it, is missing."""
    return "".join(
        templates[phrase.code].format(**{name: _fact(value, templates) for name, value in phrase.facts.items()})
        for phrase in phrases
    )


def _fact(value: object, templates: Mapping[str, str]) -> str:
    if isinstance(value, Phrase):
        return render((value,), templates)
    if isinstance(value, tuple):
        parts = [_fact(each, templates) for each in value]
        first = templates[LIST_COMMA].join(parts[:-1])
        return templates[LIST_AND].join(filter(None, (first, *parts[-1:])))
    return str(value)
