"""A model's chat template: where it is, and what it says of thinking. Nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ReadText = Callable[[str], str | None]
"""The text of one of the model's files by its name, ``None`` where it is not there."""

_SWITCHES = ("enable_thinking", "thinking")
"""Variables of templates: Qwen3, GLM, Hunyuan, SmolLM3; DeepSeek V3.1, Granite, Kimi."""
_CODE = re.compile(r"\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_OPENS = re.compile(r"<think>(?:\\n|\s)*$")


@dataclass(frozen=True, slots=True)
class Template:
    """What was found."""

    switch: str | None
    """The variable that has the model think first or not; ``None`` where there is none."""
    opens_thinking: bool
    """Whether the prompt ends with ``<think>``, so that answers begin inside; where there is a switch: if it is on."""


def read_template(option: object, read: ReadText, config: Mapping[str, Any]) -> Template | None:
    """Of vLLM's flag ``chat-template`` (a path, or the template itself), else of the model's files.

    ``config`` is ``tokenizer_config.json``. ``None`` where there is no template.
    """
    text = _given(option) if isinstance(option, str) and option else _of_files(read, config)
    return None if text is None else look_at_template(text)


def look_at_template(text: str) -> Template:
    """What a template's text tells."""
    code = [_STRING.sub("''", block) for block in _CODE.findall(text)]
    switch = next((name for name in _SWITCHES if any(_uses(name, block) for block in code)), None)
    return Template(switch, _opens_thinking(text))


def _uses(name: str, code: str) -> bool:
    """As a variable: an attribute (``message.thinking``) and a name that the template itself sets are others."""
    return bool(re.search(rf"(?<![\w.]){name}\b", code)) and not re.search(rf"\bset\s+{name}\b", code)


def _opens_thinking(text: str) -> bool:
    """Whether what is written for the answer's beginning can end with the tag."""
    _, found, end = text.rpartition("add_generation_prompt")
    if not found:
        return False
    strings = [string[1:-1] for block in _CODE.findall(end) for string in _STRING.findall(block)]
    plain = _CODE.sub("", end).strip()
    return any(_OPENS.search(written) for written in (*strings, plain))


def _given(option: str) -> str | None:
    if "{" in option:
        return option
    try:
        return Path(option).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None  # vLLM will say so at its start


def _of_files(read: ReadText, config: Mapping[str, Any]) -> str | None:
    if (text := read("chat_template.jinja")) is not None:
        return text
    found = config.get("chat_template")
    if isinstance(found, list):  # several by name; vLLM takes "default" for a chat without tools
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default") or next(iter(named.values()), None)
    return found if isinstance(found, str) else None
