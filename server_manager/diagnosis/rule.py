"""What a rule is: a cause with the words that prove it, in plain words, with what to do and what can be corrected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from server_manager.diagnosis.exceptions import Raised
from server_manager.diagnosis.report import Fix
from server_manager.diagnosis.story import Story


@dataclass(frozen=True, slots=True)
class Clues:
    """All that a rule may look at once its pattern has matched."""

    facts: Mapping[str, object]
    """The pattern's named groups: numbers as numbers, those that did not take part left out."""
    story: Story
    options: Mapping[str, object]
    """Flags of the start, without dashes; from the caller, else from the log."""
    env: Mapping[str, str]
    raised: Raised | None = None
    """The exception that the pattern matched; ``None`` for a stray line."""
    chain: Sequence[Raised] = ()
    """Those that were raised one while another was handled, that one among them."""
    served: bool = False

    def number(self, name: str) -> float | None:
        """A fact as a number, or ``None``."""
        value = self.facts.get(name)
        return float(value) if isinstance(value, int | float) else None

    def option(self, key: str, otherwise: int = 1) -> int:
        """A flag's value as a whole number."""
        try:
            return int(str(self.options.get(key, otherwise)))
        except ValueError:
            return otherwise

    @property
    def text(self) -> str:
        """The line that names the exception; empty for a stray line."""
        return self.raised.text if self.raised else ""

    @property
    def message(self) -> str:
        """All lines of the exception."""
        return self.raised.message if self.raised else ""

    def chain_says(self, pattern: str) -> bool:
        """Whether any exception of the chain says so."""
        return any(re.search(pattern, raised.message) for raised in self.chain)

    def passed_through(self, *functions: str) -> bool:
        """Whether the traceback goes through one of these functions."""
        return self.raised is not None and bool(set(functions) & set(self.raised.frames))


_COMPLAINT = re.compile(
    r"(?:[\w.]+: )?(?:Value error|Assertion failed), |"
    r"(?:\w+\.)*(?:ValueError|VLLMValidationError|NotImplementedError|ImportError|ModuleNotFoundError|TypeError|KeyError):"
)

Offer = Callable[[Clues], Iterable[Fix]]
Condition = Callable[[Clues], bool]
MoreFacts = Callable[[Clues], Mapping[str, object]]


def no_fixes(clues: Clues) -> Iterable[Fix]:
    """Nothing that could be computed."""
    return ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    cause: str
    pattern: re.Pattern[str]
    """Searched for in the whole message of the exception that is the root cause."""
    title: str
    """With ``{facts}`` of the pattern."""
    remedy: str
    fixes: Offer = no_fixes
    when: Condition | None = None
    """A further condition."""
    more: MoreFacts | None = None
    """Further facts for title and remedy."""
    weak: bool = False
    """Whether it may follow from another process's trouble (a broken connection): anything else goes before it."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """For placeholders of which the log may not tell."""


def is_complaint(clues: Clues) -> bool:
    """Whether the exception is one that code raises because it does not like its arguments."""
    return _COMPLAINT.match(clues.text) is not None


def rule(
    cause: str, pattern: str, title: str, remedy: str, fixes: Offer = no_fixes, *, when: Condition | None = None,
    more: MoreFacts | None = None, weak: bool = False, defaults: Mapping[str, object] | None = None,
) -> Rule:  # fmt: skip
    """A row. ``pattern`` is a regular expression; ``^`` and ``$`` in it mean lines."""
    return Rule(cause, re.compile(pattern, re.MULTILINE), title, remedy, fixes, when, more, weak, defaults or {})


def facts_of(match: re.Match[str]) -> dict[str, object]:
    """The named groups that took part; what looks like a number becomes one."""
    return {name: _typed(value) for name, value in match.groupdict().items() if value is not None}


def _typed(text: str) -> object:
    bare = text.replace(",", "")
    if re.fullmatch(r"-?\d{1,15}", bare):
        return int(bare)
    if re.fullmatch(r"[1-9]\d{3,8}\.0", text):  # a number of tokens that went through a float on its way to the log
        return int(text[:-2])
    return float(text) if re.fullmatch(r"-?\d{1,9}\.\d{1,9}", text) else text.strip()
