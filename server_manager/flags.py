"""What we know of the flags of ``vllm serve``.

The table is data (``vllm_flags.json``, made by ``tools/make_flag_table.py`` from vLLM's own help text), and it only
ever helps: a flag that it does not know goes to vLLM untouched.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_DATA = Path(__file__).with_name("vllm_flags.json")
_BEFORE_DOT = re.compile(r"[^.]*")


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. Names and choices are spelled as vLLM's help spells them."""

    name: str
    """Long form without the dashes: ``tensor-parallel-size``."""
    takes: Literal["none", "one", "optional", "many"]
    """How many values follow it; ``none`` is a boolean flag."""
    group: str
    help: str
    """First sentence."""
    aliases: tuple[str, ...] = ()
    """Other forms with their dashes: ``-tp``."""
    negatable: bool = False
    """Whether ``--no-NAME`` exists."""
    choices: tuple[str, ...] = ()
    """The only values allowed; empty where others may be."""
    json: bool = False
    """Whether the value is a JSON object."""
    repeatable: bool = False
    """Whether it is given once per value (``--middleware A --middleware B``)."""

    @property
    def boolean(self) -> bool:
        return self.takes == "none"


@dataclass(frozen=True, slots=True)
class FlagTable:
    """All flags of one version of vLLM."""

    vllm_version: str
    flags: tuple[Flag, ...]
    forms: Mapping[str, Flag]
    """By every form with its dashes, ``--no-`` forms left out."""

    @property
    def vllm_release(self) -> str:
        """Major and minor version: ``0.32``."""
        return ".".join(self.vllm_version.split(".")[:2])


@functools.cache
def flag_table() -> FlagTable:
    """The table, read when first asked for (some milliseconds)."""
    data = json.loads(_DATA.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = data["flags"]
    flags = tuple(Flag(**row | {key: tuple(row[key]) for key in ("aliases", "choices") if key in row}) for row in rows)
    forms = {form: flag for flag in flags for form in (f"--{flag.name}", *flag.aliases)}
    return FlagTable(data["vllm"], flags, forms)


def normalise(key: str) -> str:
    """Underscores become dashes up to the first dot, as vLLM's ``FlexibleArgumentParser`` does with a flag's name."""
    return _BEFORE_DOT.sub(lambda match: match[0].replace("_", "-"), key, count=1)


def find(key: str) -> Flag | None:
    """The flag that a key of a model file means, or ``None``.

    ``no-NAME`` finds nothing: it is the other form of a boolean flag (see ``find_negated``). A key with a dot
    (``compilation-config.mode``) finds the flag before the dot.
    """
    return flag_table().forms.get("--" + normalise(key).split(".", 1)[0])


def find_negated(key: str) -> Flag | None:
    """The boolean flag of which ``key`` is the ``no-NAME`` form, or ``None``."""
    key = normalise(key)
    flag = find(key.removeprefix("no-")) if key.startswith("no-") and "." not in key else None
    return flag if flag and flag.negatable else None


def find_form(token: str) -> Flag | None:
    """The flag that a word of a command line means (``-tp``, ``--dtype``), or ``None``.

    A beginning that only one flag has counts as that flag, as everywhere in argparse.
    """
    forms = flag_table().forms
    dashes = "--" if token.startswith("--") else "-"
    token = dashes + normalise(token.removeprefix(dashes)).split(".", 1)[0]
    if flag := forms.get(token):
        return flag
    if not token.startswith("--") or len(token) < 4:
        return None
    matches = [flag for form, flag in forms.items() if form.startswith(token)]
    return matches[0] if len(matches) == 1 else None


def nearest(key: str) -> str | None:
    """The known key that is spelled most like ``key``, or ``None`` where none is close."""
    key = normalise(key).split(".", 1)[0]
    if flag := flag_table().forms.get(f"-{key}"):  # the short form, which a file cannot use
        return flag.name
    known = [form.removeprefix("--") for form in flag_table().forms if form.startswith("--")]
    known += [f"no-{flag.name}" for flag in flag_table().flags if flag.negatable]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    return close[0] if close else None
