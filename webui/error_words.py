"""What errors of the chat say, in the languages of the page. In ``server_manager`` they are English."""

from __future__ import annotations

import re

from webui.locales import error_words

_BETWEEN_SENTENCES = re.compile(r"(?<=[.?!:]) ")


def error_in_words(message: str, next_step: str) -> dict[str, str]:
    """By language; empty where a sentence is not known there."""
    return _all_of([text for text in (message, next_step) if text])


def note_in_words(note: str) -> dict[str, str]:
    """The same for a message and a next step in one, as they are kept with an answer that broke off."""
    for gap in _BETWEEN_SENTENCES.finditer(note):
        if found := _all_of([note[: gap.start()], note[gap.end() :]]):
            return found
    return _all_of([note]) if note else {}


def _all_of(texts: list[str]) -> dict[str, str]:
    found = {}
    for locale in error_words():
        words = [_translated(text, locale) for text in texts]
        if words and all(words):
            found[locale] = _joined([word for word in words if word])
    return found


def _joined(sentences: list[str]) -> str:
    """Chinese has no space between sentences; after a server's own words there is one."""
    text = ""
    for sentence in sentences:
        text += f" {sentence}" if text and text[-1].isascii() else sentence
    return text


def _translated(text: str, locale: str) -> str | None:
    for pattern, template in error_words()[locale]:
        if match := pattern.fullmatch(text):
            return template.format(**match.groupdict())
    return None
