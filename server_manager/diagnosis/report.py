"""What a diagnosis is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server_manager.phrases import Phrase


@dataclass(frozen=True, slots=True)
class Fix:
    """One correction to try, as a button of the page."""

    id: str
    """Unique within its diagnosis; what REST is sent."""
    label: str
    """Text of the button: "Start with --max-model-len 8192"."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Flags of ``vllm serve`` without dashes that are set; ``None`` removes one."""
    env: Mapping[str, str | None] = field(default_factory=dict)
    """Variables of the environment that are set; ``None`` removes one."""
    asks: str | None = None
    """A variable of the environment whose value a person must give first: ``HF_TOKEN``."""
    words: str = ""
    """Key of the label in the page's locales, without ``fix_``; its placeholders are in ``facts``."""
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a server did not start, or ended while it served."""

    cause: str
    """Stable id: ``kv_cache_too_small``."""
    title: str
    """One sentence in plain words, with the numbers."""
    evidence: str = ""
    """The line of the log that proves it, without prefixes, cut; empty where there is none."""
    line: int | None = None
    """Its number in the log, from 1."""
    remedy: str = ""
    """What to do; one or two sentences."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """Numbers and names that were read from the log; what title and remedy were filled with."""
    title_phrases: tuple[Phrase, ...] = ()
    """What the title was put together from, where one template does not do."""
    remedy_phrases: tuple[Phrase, ...] = ()
    fixes: tuple[Fix, ...] = ()
    known: bool = True
    """False where no rule knows it: then the evidence is the engine's first exception."""
