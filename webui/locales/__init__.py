"""The page's words in English and Simplified Chinese: one YAML file a language, the same keys in each."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import yaml

from server_manager import SAMPLING_PARAMS

LOCALES = ("en", "zh-CN")


@cache
def messages() -> dict[str, dict[str, str]]:
    """By locale, then by key. The page's script gets the same."""
    found = {locale: _read(f"{locale}.yaml") for locale in LOCALES}
    for row in SAMPLING_PARAMS:  # their help stands in the row itself
        found["en"][f"sampling_{row.name}"] = row.help
        found["zh-CN"][f"sampling_{row.name}"] = row.help_zh
    return found


@cache
def failure_words() -> dict[str, dict[str, str]]:
    """By locale: ``why_CAUSE`` and ``remedy_CAUSE`` with the placeholders of the English rows in ``server_manager``."""
    return {"zh-CN": _read("failures.zh-CN.yaml")}


@cache
def planner_words() -> dict[str, dict[str, str]]:
    """By locale: templates for what the memory planner says, in ``server_manager`` in English."""
    return {"zh-CN": _read("planner.zh-CN.yaml")}


@cache
def smoke_words() -> dict[str, dict[str, str]]:
    """By locale: templates for what the smoke test says, in ``server_manager`` in English."""
    return {"zh-CN": _read("smoke.zh-CN.yaml")}


@cache
def error_words() -> dict[str, tuple[tuple[re.Pattern[str], str], ...]]:
    """By locale: for each English sentence of an error a pattern that finds its facts, and the template for them."""
    path = Path(__file__).parent / "errors.zh-CN.yaml"
    rows: dict[str, str] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"zh-CN": tuple((_pattern(english), words) for english, words in rows.items())}


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(f"(?P<{part}>.+)" if i % 2 else re.escape(part) for i, part in enumerate(parts)), re.DOTALL
    )


@cache
def translations() -> Any:
    """``gr.I18n`` over ``messages()``. Gradio knows the Chinese of browsers that say ``zh-CN`` or ``zh-TW``."""
    found = messages()
    return gr.I18n(en=found["en"], **{"zh-CN": found["zh-CN"], "zh-TW": found["zh-CN"]})


def _read(name: str) -> dict[str, str]:
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    # In C, where PyYAML was built with it: a tenth of the time.
    found: dict[str, str] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found
