"""A conversation as a document to take away: Markdown of what is shown, JSON of everything."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from typing import Any

from server_manager.conversations.tree import Dump
from server_manager.conversations.turn import Turn

FORMAT = "vllm-deck-conversation"
VERSION = 1
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


def path_of(dump: Dump) -> list[Turn]:
    """The turns that are shown, from the beginning."""
    by_id = {turn.id: turn for turn in dump.turns}
    found, at = [], dump.header.leaf
    while at is not None and at in by_id:
        found.append(by_id[at])
        at = by_id[at].parent
    return found[::-1]


def as_markdown(dump: Dump) -> str:
    """What is shown, with what the models thought folded, and images inside."""
    head = dump.header
    parts = [f"# {head.title or head.id}"]
    if head.system_prompt.strip():
        parts.append(
            "\n".join(f"> {line}".rstrip() for line in f"**System prompt**\n\n{head.system_prompt}".split("\n"))
        )
    for turn in path_of(dump):
        parts.append("## User")
        parts.extend(f"![]({dump.images[image].data_url})" for image in turn.images if image in dump.images)
        if turn.user:
            parts.append(_closed(turn.user))
        parts.append(f"## {turn.model or 'Assistant'}")
        if turn.reasoning.strip():
            parts.append(f"<details><summary>Thinking</summary>\n\n{_closed(turn.reasoning.strip())}\n\n</details>")
        if turn.assistant.strip():
            parts.append(_closed(turn.assistant.strip()))
        if turn.note:
            parts.append(f"*— {turn.note}*")
    return "\n\n".join(parts) + "\n"


def as_json(dump: Dump) -> str:
    """Everything: all alternatives, figures and images (as data URLs by id). Times are Unix seconds."""
    head = dump.header
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "exported": round(time.time(), 3),
        **{name: getattr(head, name) for name in ("id", "title", "system_prompt", "model", "created", "updated")},
        "current": head.leaf,
        "turns": [turn_dict(turn) for turn in dump.turns],
        "images": {image.id: image.data_url for image in dump.images.values()},
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def turn_dict(turn: Turn) -> dict[str, Any]:
    """A turn for JSON, its figures beside its texts."""
    found: dict[str, Any] = asdict(turn)
    figures: dict[str, Any] = found.pop("figures")
    return found | figures


def file_name(title: str, ending: str) -> str:
    """A title as the name of a file, on any system."""
    plain = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]+', " ", title)
    return f"{' '.join(plain.split()).strip('. ')[:80] or 'conversation'}.{ending}"


def _closed(text: str) -> str:
    """With the end of a block of code that breaks off: what follows would stand in it."""
    fence = ""
    for line in text.splitlines():
        if found := _FENCE.match(line):
            mark, rest = found.groups()
            if not fence:
                fence = mark
            elif mark.startswith(fence) and not rest.strip():
                fence = ""
    return f"{text}\n{fence}" if fence else text
