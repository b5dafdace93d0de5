"""The sampling parameters that the page offers. One row here is a slider, its range, its help and its request field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from server_manager.errors import SpecError

OFF = "off"
"""As a value: leave the field out of the request."""


@dataclass(frozen=True, slots=True)
class SamplingParam:
    """One row. Ranges are vLLM's (``SamplingParams._verify_args``), narrowed to what a slider can use."""

    name: str
    """The field of the request."""
    label: str
    label_zh: str
    default: float | None
    """``None``: not sent unless chosen."""
    minimum: float
    maximum: float
    step: float
    kind: Literal["float", "int"]
    channel: Literal["openai", "extra"]
    """``extra`` is vLLM's own: top level of the JSON body as well, but ``extra_body`` of the ``openai`` client."""
    help: str
    help_zh: str
    primary: bool = False
    """Whether it is always shown, and not behind "more"."""


SAMPLING_PARAMS: tuple[SamplingParam, ...] = (
    SamplingParam(
        "temperature", "Temperature", "温度", 0.7, 0.0, 2.0, 0.05, "float", "openai",
        "How freely the model picks its words; 0 always takes the likeliest.",
        "控制用词的随机程度；0 表示总是选择最可能的词。",
        primary=True,
    ),
    SamplingParam(
        "top_p", "Top-p", "Top-p", 0.9, 0.01, 1.0, 0.01, "float", "openai",
        "Picks only among the likeliest words that together have this probability; 1 is off.",
        "只在累计概率达到该值的最可能词中选择；1 表示关闭。",
        primary=True,
    ),
    SamplingParam(
        "repetition_penalty", "Repetition penalty", "重复惩罚", 1.0, 0.5, 2.0, 0.01, "float", "extra",
        "Above 1 makes words that already occurred less likely; 1 is off.",
        "大于 1 会降低已出现词的概率；1 表示关闭。",
        primary=True,
    ),
    SamplingParam(
        "max_tokens", "Max tokens", "最大生成长度", 1024, 1, 32768, 1, "int", "openai",
        "How many tokens an answer may have at most.",
        "一次回答最多生成的 token 数。",
        primary=True,
    ),
    SamplingParam(
        "top_k", "Top-k", "Top-k", 0, 0, 200, 1, "int", "extra",
        "Picks only among this many likeliest words; 0 is off.",
        "只在概率最高的若干个词中选择；0 表示关闭。",
    ),
    SamplingParam(
        "min_p", "Min-p", "Min-p", 0.0, 0.0, 1.0, 0.01, "float", "extra",
        "Leaves out words whose probability is below this share of the likeliest word's; 0 is off.",
        "排除概率低于最可能词该比例的词；0 表示关闭。",
    ),
    SamplingParam(
        "presence_penalty", "Presence penalty", "存在惩罚", 0.0, -2.0, 2.0, 0.05, "float", "openai",
        "Above 0 makes words that the answer already has less likely, however often they occurred; 0 is off.",
        "大于 0 会降低回答中已出现词的概率，与出现次数无关；0 表示关闭。",
    ),
    SamplingParam(
        "frequency_penalty", "Frequency penalty", "频率惩罚", 0.0, -2.0, 2.0, 0.05, "float", "openai",
        "Above 0 makes words less likely the more often the answer already has them; 0 is off.",
        "大于 0 时，词在回答中出现得越多，概率越低；0 表示关闭。",
    ),
    SamplingParam(
        "seed", "Seed", "随机种子", None, 0, 2**31 - 1, 1, "int", "openai",
        "The same seed gives the same answer again, as far as the server can; empty is a new one each time.",
        "相同的种子尽可能得到相同的回答；留空则每次不同。",
    ),
)  # fmt: skip


def request_fields(values: Mapping[str, object]) -> dict[str, float | int]:
    """The fields of a ``/v1/chat/completions`` body for what was chosen.

    Flat, as vLLM takes them. ``None`` and ``"off"`` are left out, and vLLM then takes the model's own default. Raises
    ``SpecError`` (fact ``key``) for an unknown name, something that is not a number, and a value out of range.
    """
    rows = {row.name: row for row in SAMPLING_PARAMS}
    fields: dict[str, float | int] = {}
    for name, value in values.items():
        row = rows.get(name)
        if row is None:
            raise SpecError(f"{name!r} is not a sampling parameter.", f"Known are {', '.join(rows)}.", key=name)
        if value is None or value == OFF:
            continue
        fields[name] = _checked(row, value)
    return fields


def defaults_for(recommended: Mapping[str, float]) -> dict[str, float | int | None]:
    """What the sliders show for a model: its own recommendation where there is one, within the slider's range."""
    return {
        row.name: _clamped(row, recommended[row.name]) if row.name in recommended else row.default
        for row in SAMPLING_PARAMS
    }


def _checked(row: SamplingParam, value: object) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SpecError(f"{row.name} is {value!r}, which is not a number.", _range(row), key=row.name)
    if row.kind == "int" and value != int(value):
        raise SpecError(f"{row.name} is {value}, which is not a whole number.", _range(row), key=row.name)
    if not row.minimum <= value <= row.maximum:
        raise SpecError(f"{row.name} is {value}, which is out of range.", _range(row), key=row.name)
    return int(value) if row.kind == "int" else float(value)


def _range(row: SamplingParam) -> str:
    return f"Choose from {row.minimum:.10g} to {row.maximum:.10g}."


def _clamped(row: SamplingParam, value: float) -> float | int:
    if row.name == "top_k" and value == -1:  # vLLM's older word for "off"
        value = 0
    value = min(max(value, row.minimum), row.maximum)
    return int(value) if row.kind == "int" else float(value)
