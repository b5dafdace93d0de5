"""What a load test is to do: the fields of its form, their presets, and what is wrong with them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from server_manager.errors import SpecError

MOST_LEVELS, MOST_PROMPTS, MOST_CONCURRENT, MOST_RATE = 32, 1_000_000, 10_000, 100_000.0
GOODPUT_NAMES = ("ttft", "tpot", "e2el")
ALL_AT_ONCE = "inf"

OUR_FLAGS = (
    "base-url", "host", "port", "endpoint", "backend", "model", "served-model-name", "tokenizer", "dataset-name",
    "dataset-path", "num-prompts", "max-concurrency", "request-rate", "num-warmups", "seed", "temperature", "goodput",
    "ignore-eos", "random-input-len", "random-output-len", "random-range-ratio", "sharegpt-output-len",
    "custom-output-len", "result-dir", "result-filename", "save-result", "save-detailed", "append-result",
    "disable-tqdm", "percentile-metrics", "metric-percentiles", "input-len", "output-len", "plot-timeline",
)  # fmt: skip
"""Flags of ``vllm bench serve`` that fields of the form set, or without which we could not read its result."""


@dataclass(frozen=True, slots=True)
class Sla:
    """A search for the highest concurrency whose time to first token keeps a limit."""

    ttft_p99_ms: float
    max_concurrency: int = 256


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """One load test's settings, in vLLM's words. Lengths are in tokens."""

    preset: str = "chat"
    """Which preset the others began as; changes nothing by itself."""
    dataset: Literal["random", "sharegpt", "custom"] = "random"
    dataset_path: str = ""
    """A file on the app's machine: ShareGPT's JSON, or JSON lines with ``prompt`` (and ``output_tokens``)."""
    input_len: int = 512
    """Of random prompts only."""
    output_len: int | None = 128
    """``None``: as long as the dataset's own answers."""
    range_ratio: float = 0.0
    """Random lengths differ by up to this share in both directions; below 1."""
    num_prompts: int = 32
    """Per level, at least: at a concurrency of c it is never less than 2 c, so that the level is really reached."""
    concurrency: tuple[int, ...] = (1, 8, 32)
    request_rates: tuple[float | Literal["inf"], ...] = ()
    """Per second. Exactly one of the two lists has entries, and neither has with ``sla``."""
    num_warmups: int = 1
    """Requests before each level that do not count."""
    temperature: float = 0.0
    ignore_eos: bool = True
    """Whether answers always have their full length."""
    seed: int | None = None
    """Of prompts and arrival times. ``None``: drawn anew for each run. Each level adds its position to it."""
    api: Literal["chat", "completions"] = "chat"
    goodput: Mapping[str, float] = field(default_factory=dict)
    """Limits in milliseconds by ``ttft``, ``tpot`` and ``e2el``; requests that keep all of them are counted."""
    sla: Sla | None = None
    tokenizer: str = ""
    """A folder or hub id, where the server's own cannot be found from here."""
    extra: str = ""
    """More flags of ``vllm bench serve``, as in a shell."""

    def prompts_for(self, concurrency: int | None) -> int:
        """How many requests a level has."""
        return max(self.num_prompts, 2 * (concurrency or 0))

    def extra_args(self) -> tuple[str, ...]:
        """``extra`` as words. Raises ``SpecError``."""
        try:
            return tuple(shlex.split(self.extra))
        except ValueError as error:
            raise _wrong("extra", f"The further flags cannot be read: {error}.") from error

    def longest_tokens(self) -> int | None:
        """Tokens of the longest request, prompt and answer; ``None`` where only the dataset knows."""
        if self.dataset != "random":
            return None
        longest = (math.ceil(length * (1 + self.range_ratio)) for length in (self.input_len, self.output_len or 0))
        return sum(longest)


PRESETS: Mapping[str, LoadSettings] = MappingProxyType(
    {
        "chat": LoadSettings(preset="chat", input_len=512, output_len=128),
        "long_prompt": LoadSettings(preset="long_prompt", input_len=4096, output_len=256),
        "tutorial": LoadSettings(preset="tutorial", input_len=64, output_len=16),
    }
)


def settings_from(given: Mapping[str, Any]) -> LoadSettings:
    """The preset that ``given`` names ("chat", if none), with its other fields in place of the preset's.

    Raises ``SpecError`` with the field as ``key``.
    """
    known = {field.name for field in fields(LoadSettings)}
    if unknown := sorted(given.keys() - known):
        raise _wrong(unknown[0], f"{unknown[0]!r} is no field of a load test.", f"Known: {', '.join(sorted(known))}.")
    preset = PRESETS.get(str(given.get("preset", "chat")))
    if preset is None:
        raise _wrong("preset", f"There is no preset {given.get('preset')!r}.", f"Known: {', '.join(PRESETS)}.")
    base = msgspec.to_builtins(preset)
    if given.get("request_rates") and "concurrency" not in given:
        base["concurrency"] = ()
    try:
        settings = msgspec.convert({**base, **given}, LoadSettings)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        key = where.strip("`").removeprefix("$.").partition("[")[0].partition(".")[0]
        raise _wrong(key, f"{key}: {what}.", "See /docs.") from error
    check(settings)
    return settings


def check(settings: LoadSettings) -> None:
    """Raises ``SpecError`` with the field as ``key`` for what can be known to be wrong before anything runs."""
    _check_levels(settings)
    for key, value, least, most in (
        ("input_len", settings.input_len, 1, 10_000_000),
        ("output_len", settings.output_len, 1, 1_000_000),
        ("num_prompts", settings.num_prompts, 1, MOST_PROMPTS),
        ("num_warmups", settings.num_warmups, 0, 10_000),
        ("temperature", settings.temperature, 0, 10),
        ("seed", settings.seed, 0, 2**31),
    ):
        if value is not None and not least <= value <= most:
            raise _wrong(key, f"{key} is {value:g}.", f"Use a number from {least} to {most}.")
    if not 0 <= settings.range_ratio < 1:
        raise _wrong("range_ratio", f"range_ratio is {settings.range_ratio:g}.", "Use a number from 0 to below 1.")
    if settings.dataset == "random" and settings.output_len is None:
        raise _wrong("output_len", "Random prompts need an answer length.", "Set output_len.")
    if settings.dataset != "random" and not settings.dataset_path:
        raise _wrong("dataset_path", f"The dataset {settings.dataset} needs a file.", "Give its path on this machine.")
    if settings.dataset == "custom" and not settings.dataset_path.endswith(".jsonl"):
        raise _wrong(
            "dataset_path", "A custom dataset is a file of JSON lines.", "Give it the ending .jsonl, as vLLM wants it."
        )
    for name, limit in settings.goodput.items():
        if name not in GOODPUT_NAMES or not 0 < limit < math.inf:
            raise _wrong(
                "goodput", f"{name}:{limit:g} is no goodput limit.", "Use ttft, tpot or e2el with milliseconds."
            )
    for word in settings.extra_args():
        flag = word.partition("=")[0].removeprefix("--").replace("_", "-")
        # argparse takes the beginning of a flag for the whole.
        if word.startswith("--") and any(ours == flag or (flag and ours.startswith(flag)) for ours in OUR_FLAGS):
            raise _wrong("extra", f"{word.partition('=')[0]} is set by the test itself.", "Use the form's own field.")


def _check_levels(settings: LoadSettings) -> None:
    if settings.sla is not None:
        if not 0 < settings.sla.ttft_p99_ms < math.inf:
            raise _wrong("sla", "The limit of the time to first token is no number above 0.", "Use milliseconds.")
        if not 1 <= settings.sla.max_concurrency <= MOST_CONCURRENT:
            raise _wrong("sla", f"max_concurrency is {settings.sla.max_concurrency}.", f"Use 1 to {MOST_CONCURRENT}.")
        return
    if bool(settings.concurrency) == bool(settings.request_rates):
        raise _wrong("concurrency", "A test has either concurrency levels or request rates.", "Fill one of the two.")
    if len(settings.concurrency) + len(settings.request_rates) > MOST_LEVELS:
        raise _wrong("concurrency", f"These are more than {MOST_LEVELS} levels.", "Use fewer.")
    for level in settings.concurrency:
        if not 1 <= level <= MOST_CONCURRENT:
            raise _wrong(
                "concurrency", f"{level} is no concurrency.", f"Use whole numbers from 1 to {MOST_CONCURRENT}."
            )
    for rate in settings.request_rates:
        if rate != ALL_AT_ONCE and not 0 < float(rate) <= MOST_RATE:
            raise _wrong("request_rates", f"{rate} is no request rate.", f"Use up to {MOST_RATE:g} per second, or inf.")


def check_fits(settings: LoadSettings, max_model_len: int | None, template_tokens: int = 0) -> None:
    """Raises ``SpecError`` where requests of these lengths are longer than the model's context.

    ``template_tokens``: what the server's chat template adds to a prompt.
    """
    needed = settings.longest_tokens()
    if needed is None or max_model_len is None or needed + template_tokens <= max_model_len:
        return
    added = f", and its chat template adds {template_tokens} tokens" if template_tokens else ""
    raise SpecError(
        f"Prompt and answer have up to {needed:,} tokens{added}; the model's context is {max_model_len:,}.",
        "Choose shorter prompts or answers, or start the model with a larger max-model-len.",
        key="input_len",
        needed=needed + template_tokens,
        max_model_len=max_model_len,
    )


def _wrong(key: str, message: str, next_step: str = "") -> SpecError:
    return SpecError(message, next_step, key=key)
