"""What to serve and with which flags: one immutable object per model, in vLLM's own words."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from server_manager import flags
from server_manager.errors import SpecError

Source = Literal["huggingface", "modelscope", "mirror", "local"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_KEY = re.compile(r"[^\s=]+")
_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")  # argparse's own
RESTARTS_VARIABLE = "DECK_RESTARTS"
"""In a model's ``.env`` (or ``defaults.env``): how often in a row it is started again after a crash."""
_OWN_VARIABLES = "DECK_"
RESERVED_NAMES = frozenset({"defaults"})
"""``defaults.env`` belongs to all models."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the catalogue. Raises ``SpecError`` for a bad name or model."""

    name: str
    """The stem of its file; what the page, REST and the command line call it."""
    model: str
    """Hub id or path."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Flags of ``vllm serve`` without their dashes, in the order of the file, with YAML's values.

    ``no-NAME: true`` becomes ``NAME: false`` where vLLM has both forms.
    """
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Added to vLLM's environment (``defaults.env`` and ``NAME.env``). May hold a token: never show it unmasked."""
    path: Path | None = None
    """The file that it was read from."""
    warnings: tuple[str, ...] = ()
    """What looks wrong but goes to vLLM as it stands; whole sentences."""
    shipped: bool = False
    """Whether it came with the app and not from the user's folder."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.model or self.model.startswith("-") or self.model.isspace() or not _can_be_argument(self.model):
            raise SpecError(
                f"{self.model!r} is neither the id of a model nor a path.",
                "Write a hub id such as Qwen/Qwen2-0.5B-Instruct, or the path of a folder.",
                key="model",
            )
        options = dict(_canonical(key, value) for key, value in self.options.items())
        object.__setattr__(self, "options", MappingProxyType(options))
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))

    @property
    def served_model_name(self) -> str:
        """What requests call the model: the first of ``served-model-name``, else ``model``, as in vLLM."""
        names = self.options.get("served-model-name")
        first = next(iter(names), None) if isinstance(names, list) else names
        return str(first) if first is not None else self.model

    @property
    def trust_remote_code(self) -> bool:
        """Whether code from the model's repository is executed."""
        return self.options.get("trust-remote-code") is True

    @property
    def source(self) -> Source:
        """Where vLLM will take the files from, by ``VLLM_USE_MODELSCOPE``, ``HF_ENDPOINT`` and the disk.

        What the spec's ``env`` leaves open is decided by the app's own environment, which vLLM inherits.
        """
        if is_local(self.model):
            return "local"
        if self.setting("VLLM_USE_MODELSCOPE").lower() in {"1", "true"}:  # as vllm/envs.py reads it
            return "modelscope"
        endpoint = self.setting("HF_ENDPOINT").rstrip("/")
        return "mirror" if endpoint not in {"", "https://huggingface.co"} else "huggingface"

    @property
    def restarts(self) -> int:
        """How often in a row the server may be started again after a crash; 0 where the operator has not said."""
        text = self.setting(RESTARTS_VARIABLE)
        return int(text) if text.isascii() and text.isdecimal() else 0

    @property
    def vllm_env(self) -> dict[str, str]:
        """``env`` without what is for us alone."""
        return {name: value for name, value in self.env.items() if not name.startswith(_OWN_VARIABLES)}

    def setting(self, name: str) -> str:
        """An environment variable of the spec, else of the app; empty where neither has it."""
        return self.env.get(name, os.environ.get(name, "")).strip()

    def serve_args(self) -> tuple[str, ...]:
        """What follows ``vllm serve``: the model, then the flags.

        The same as vLLM's ``FlexibleArgumentParser.load_config_file`` makes from the file, and in addition: what it
        would spoil arrives: ``~`` in the model's path, a value that begins with a dash, a mapping in a list, a flag
        that is given once per value, and ``false``. (It means to turn that into ``--no-NAME``, but asks the parser of
        ``vllm`` and not that of ``vllm serve`` whether there is such a flag, and leaves it out; vLLM 0.32.)
        """
        return (
            os.path.expanduser(self.model),
            *(arg for key, value in self.options.items() for arg in _flag_args(key, value)),
        )


def check_name(name: str) -> None:
    """Raises ``SpecError`` unless ``name`` can be the stem of a model file."""
    if not _NAME.fullmatch(name) or name.lower() in RESERVED_NAMES:
        raise SpecError(
            f"{name!r} cannot be the name of a model.",
            "Use letters, digits, dot, dash and underscore, beginning with a letter or digit; 128 at most; "
            "not 'defaults'.",
            key="name",
        )


def name_for(text: str) -> str:
    """A valid name made from a model's id, path or served name."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", text.rstrip("/").rsplit("/", 1)[-1]).strip("._-")[:128].rstrip("._-")
    return stem if _NAME.fullmatch(stem) and stem.lower() not in RESERVED_NAMES else "model"


def is_local(model: str) -> bool:
    """Whether vLLM takes ``model`` from the disk: it is written as a path, or such a folder exists."""
    return model.startswith(("/", "./", "../", "~")) or os.path.exists(model)


def _canonical(key: str, value: object) -> tuple[str, object]:
    key = flags.normalise(key)
    negated = flags.find_negated(key) if value is True else None
    return (negated.name, False) if negated else (key, value)


def _flag_args(key: str, value: object) -> list[str]:
    flag, long = flags.find(key), f"--{key}"
    if isinstance(value, bool):
        if "." in key:  # one field of a JSON flag has a value even where that is true or false
            return [long, json.dumps(value)]
        if value:
            return [long]
        return [f"--no-{key}"] if flag and flag.negatable else []
    if isinstance(value, list):
        values = [_text(item) for item in value]
        if flag and flag.repeatable:
            return [arg for item in values for arg in _with_value(long, item)]
        return [long, *values] if values else []
    return _with_value(long, _text(value))


def _with_value(long: str, value: str) -> list[str]:
    """One flag with one value; joined by ``=`` where argparse, or vLLM's search for dotted flags, would misread it."""
    if value.startswith("-") and (not _NEGATIVE_NUMBER.fullmatch(value) or "." in value):
        return [f"{long}={value}"]
    return [long, value]


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def option_error(key: str, value: object) -> str | None:
    """What is wrong with an option for certain, as a sentence, or ``None``."""
    flag = flags.find(key)
    items = value if isinstance(value, list) else [value]
    if key.startswith("-") or not _KEY.fullmatch(key):
        return f"'{key}' cannot be a flag: keys are written without dashes in front, spaces and equals signs."
    if any(isinstance(item, str) and not _can_be_argument(item) for item in items):
        return f"'{key}' has a character in its value that no argument can have."
    if not _is_plain(value):
        return f"'{key}' has a value that is neither text, number, list nor mapping."
    if flag is None or "." in key:
        return None
    if flag.boolean and not isinstance(value, bool):
        return f"'{key}' is a switch: write true or false, not {_show(value)}."
    if flag.takes in {"one", "many"} and isinstance(value, bool):
        return f"'{key}' needs a value; true and false are for switches. Put quotes around it if the word is meant."
    if flag.takes == "one" and isinstance(value, list) and not flag.repeatable:
        return f"'{key}' takes one value, not a list."
    return None


def option_warnings(key: str, value: object, *, written: str = "") -> list[str]:
    """What looks wrong with an option but goes to vLLM as it stands. ``written`` is the key as the file spells it."""
    flag, written = flags.find(key), written or key
    negated = flags.find_negated(key)
    release = f"vLLM {flags.flag_table().vllm_release}"
    if flag is None and negated is None:
        near = flags.nearest(key)
        guess = f"; did you mean '{near}'?" if near else "."
        if value is False:
            fate = f"A false is left out, as vLLM's own loader does; write 'no-{key}: true' if vLLM has that form."
        else:
            fate = "It is passed on as it stands."
        return [f"'{written}' is not a flag that {release} has{guess} {fate}"]
    if flag is None:
        return []
    found: list[str] = []
    if value is False and not flag.negatable and flag.boolean:
        found.append(f"'{written}: false' changes nothing: {release} has no --no-{key}.")
    found += [
        f"{_show(item)} is not a value that '{key}' takes in {release}; it takes {', '.join(flag.choices)}. "
        "It is passed on as it stands."
        for item in (value if isinstance(value, list) else [value])
        if flag.choices and "." not in key and not isinstance(item, bool) and str(item) not in flag.choices
    ]
    return found


def _can_be_argument(text: str) -> bool:
    """Neither NUL nor half of a surrogate pair (YAML can write both)."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _is_plain(value: object) -> bool:
    """Whether the value can become an argument; not ``bytes`` and sets, nor anything inside a mapping JSON lacks."""
    if isinstance(value, dict):
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            return False
        return True
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return all(_is_plain(item) and not isinstance(item, list) for item in value)
    return not isinstance(value, bytes | set)


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"
