"""A model's chat template: where it is, and what it says of thinking. Nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ReadText = Callable[[str], str | None]
"""The text of one of the model's files by its name, ``None`` where it is not there."""

_SWITCHES = ("enable_thinking", "thinking")
"""Variables of templates: Qwen3, GLM, Hunyuan, SmolLM3, Gemma 4, Nemotron 3; DeepSeek V3.1, Granite, Kimi."""
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
    thinks_unasked: bool = False
    """Whether that is on where a request does not say."""


_BUILT_IN = {
    "deepseek_v32": Template("thinking", opens_thinking=True),
    "deepseek_v4": Template("thinking", opens_thinking=True, thinks_unasked=True),
    "deepseek_v41": Template("thinking", opens_thinking=True, thinks_unasked=True),
    "kimi_k3": Template("thinking", opens_thinking=True, thinks_unasked=True),
}
"""By ``model_type``: those that come without a template, since vLLM 0.32 writes their prompts itself."""


def built_in_template(model_type: str | None) -> Template:
    """Of a model without a template of its own."""
    return _BUILT_IN.get(model_type or "", Template(None, opens_thinking=False))


def read_template(option: object, read: ReadText, config: Mapping[str, Any]) -> Template | None:
    """Of vLLM's flag ``chat-template`` (a path, or the template itself), else of the model's files.

    ``config`` is ``tokenizer_config.json``. ``None`` where there is no template.
    """
    text = _given(option) if isinstance(option, str) and option else _of_files(read, config)
    return None if text is None else look_at_template(text)


def look_at_template(text: str) -> Template:
    """What a template's text tells."""
    code = [_STRING.sub("''", block) for block in _CODE.findall(text)]
    switch = next((name for name in _SWITCHES if _is_given(name, code)), None)
    return Template(switch, _opens_thinking(text), switch is not None and _is_on_unasked(switch, code))


def _is_given(name: str, code: Sequence[str]) -> bool:
    """Whether a variable is looked at before the template sets one of that name itself.

    ``set x = x | default(true)`` looks first; an attribute (``message.x``) and an argument (``f(x=1)``) are others.
    """
    set_here = re.compile(rf"\b(?:set|for)\s+{name}\b")
    bound = re.compile(rf"{set_here.pattern}|\b{name}\s*=(?!=)")
    looked_at = re.compile(rf"(?<![\w.]){name}\b")
    for block in code:
        if looked_at.search(bound.sub("", block)):
            return True
        if set_here.search(block):
            return False
    return False


def _is_on_unasked(name: str, code: Sequence[str]) -> bool:
    """What a template takes a variable for that is not given: its default, else by what it compares it with.

    What is not given counts as false, but is not ``false``: ``if x`` is off then, ``if x is false`` asks for an off.
    """
    text = "\n".join(code)
    defaults = (
        rf"\b{name}\s*\|\s*default\(\s*(true|false)",
        rf"\b{name} is defined else (true|false)",
        rf"\bnot {name} is defined\b.*\n.*\bset {name} = (true|false)",
        rf"\b{name} is not defined\b.*\n.*\bset {name} = (true|false)",
    )
    for pattern in defaults:
        if found := re.search(pattern, text, re.IGNORECASE):
            return found[1].lower() == "true"
    return re.search(rf"\b{name} (?:is|==) (?:sameas )?false\b", text, re.IGNORECASE) is not None


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
