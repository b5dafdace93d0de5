"""A failure as the page shows it: for operators with what each correction changes in the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from server_manager import (
    Catalogue,
    Diagnosis,
    Fix,
    ModelSpec,
    Phrase,
    ServerManagerError,
    ServerStatus,
    difference,
    render_phrases,
)
from webui.locales import failure_words, planner_words


def fixes_of(status: ServerStatus, catalogue: Catalogue) -> list[dict[str, Any]]:
    """The corrections of a failed server with what each removes from the command and adds to it.

    Those that would change nothing are left out, and all of them where the model's file cannot be read.
    """
    diagnosis = status.exit.diagnosis if status.exit else None
    if diagnosis is None or not diagnosis.fixes:
        return []
    try:
        spec = catalogue.get(status.name)
    except ServerManagerError:
        return []
    found = [_shown(spec, fix) for fix in diagnosis.fixes]
    return [fix for fix in found if fix["removed"] or fix["added"]]


def _shown(spec: ModelSpec, fix: Fix) -> dict[str, Any]:
    change = difference(spec, fix)
    return {
        "id": fix.id,
        "label": fix.label,
        "asks": fix.asks,
        "words": fix.words,
        "facts": fix.facts,
        "removed": change.removed,
        "added": change.added,
    }


def translated(why: Diagnosis) -> dict[str, dict[str, str]]:
    """Title and remedy in the languages that have them and can say all that belongs into them."""
    found: dict[str, dict[str, str]] = {}
    for locale, words in failure_words().items():
        texts = {part: words.get(f"{key}_{why.cause}") for part, key in (("title", "why"), ("remedy", "remedy"))}
        shown = {part: _filled(text, why.facts) for part, text in texts.items() if text}
        found[locale] = {part: text for part, text in shown.items() if text}
    for part, phrases in (("title", why.title_phrases), ("remedy", why.remedy_phrases)):
        for locale, text in in_words(phrases).items():
            found[locale][part] = text
    return found


def in_words(phrases: Sequence[Phrase]) -> dict[str, str]:
    """What the memory planner says, by language; empty where there is nothing, or it stays English."""
    if not phrases:
        return {}
    return {locale: render_phrases(phrases, words) for locale, words in planner_words().items()}


def _filled(text: str, facts: Mapping[str, Any]) -> str | None:
    names = {name for _, name, _, _ in Formatter().parse(text) if name}
    return text.format(**facts) if names <= facts.keys() else None


def for_operators(shown: dict[str, Any], status: ServerStatus, catalogue: Catalogue) -> dict[str, Any]:
    """A status document (``status_dict``) with its corrections."""
    if shown["exit"] and shown["exit"]["diagnosis"]:
        shown["exit"]["diagnosis"]["fixes"] = fixes_of(status, catalogue)
    return shown


def without_proof(end: dict[str, Any] | None) -> dict[str, Any] | None:
    """The exit for somebody who is no operator: the log's line, flags and corrections are not theirs to see."""
    if not end or not end["diagnosis"]:
        return end
    return end | {"diagnosis": end["diagnosis"] | {"evidence": "", "fixes": []}}
