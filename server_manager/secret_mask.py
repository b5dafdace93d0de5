"""Keeps secrets out of what people get to see: logs, reports, commands.

Two nets: the values that the app knows (its own variables, those of the models, the servers' keys), and the shapes of
well-known tokens. What is found becomes ``hf_…(masked)``.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar
from urllib.parse import quote, unquote

MASK = "••••••"
"""Stands in forms and commands for what must not be shown."""
MASKED = "…(masked)"
_T = TypeVar("_T")

_SECRET_NAME = re.compile(r"TOKEN(?![SI])|(?:^|_)KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^\s/:@'\"]*):([^\s/@'\"]+)(?=@)")
_SHORTEST = 8
"""Characters of a known secret. Shorter ones would mask what is none all over the log."""
_HARMLESS = re.compile(
    r"[~./]|\d{1,15}\Z|(?i:true|false|none|null|enabled|disabled|required|optional|default\w*|keyring\w*)\Z"
)
_HARMLESS_NAME = re.compile(r"_(?:PATH|FILE|DIR|HOME|ID|NAME|TYPE|MODE)\Z", re.IGNORECASE)
_PREFIX = re.compile(r"(?:hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abp]-|nvapi-|AKIA|ASIA|AIza|ms-)")

_NAMES = (
    r"(?:[Aa]pi[_-]?[Kk]ey|API_?KEY|[Hh][Ff][_-][Tt][Oo][Kk][Ee][Nn]|(?:auth|access|refresh|session)_token|"
    r"(?:AUTH|ACCESS|REFRESH|SESSION)_TOKEN|(?:secret|secret_access|access|private)_key|"
    r"(?:SECRET|SECRET_ACCESS|ACCESS|PRIVATE)_KEY|client_secret|CLIENT_SECRET|[Pp]assw(?:or)?d|PASSWORD)"
)
# What makes it worth while to look, in lower case, and the shape. Looking for a fixed text is a hundred times faster
# than trying a shape at each character, and most lines have none of these.
_SHAPES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("hf_",), r"hf_(?<!\w...)(?:(?:oauth|jwt)_[\w.-]{16,}|[A-Za-z0-9]{20,})"),
    (("sk-",), r"sk-(?<![\w-]...)(?=[\w-]*\d)[\w-]{16,}"),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_(?<!\w....)[A-Za-z0-9]{30,}"),
    (("github_pat_",), r"github_pat_\w{30,}"),
    (("glpat-",), r"glpat-[\w-]{16,}"),
    (("xox",), r"xox[abp]-[\w-]{10,}"),
    (("nvapi-",), r"nvapi-[\w-]{30,}"),
    (("ms-",), r"ms-(?<![\w-]...)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    (("aiza",), r"AIza[\w-]{35}"),
    (("akia", "asia"), r"A(?:KIA|SIA)(?<!\w....)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    (("eyj",), r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    # Of these only the group is the secret.
    (("bearer",), r"[Bb]earer\s+(?P<a>(?=\S*\d|\S{24})[\w.~+/=-]{8,})"),
    (
        ("apikey", "api_key", "api-key", "_token", "-token", "_key", "_secret", "passw"),
        rf"{_NAMES}['\"]?\s*[=:]\s*\[?\s*['\"](?P<a>[^'\"\s]{{4,}})"
        rf"|{_NAMES}(?:=|\s*:\s+(?=\S*\d\S*)(?=\S{{16}}))(?P<b>[^\s'\",;&)\]}}]{{6,}})",
    ),
    (("--api-key", "--hf-token"), r"--(?:api-key|hf-token)[ =](?P<a>[^\s'\"$]+)"),
    (("://",), r"://[^\s/:@'\"]*:(?P<a>[^\s/@'\"]+)(?=@)"),
    (
        ("token=", "sig=", "signature=", "x-amz-"),
        r"[?&](?:[Tt]oken|sig|[Ss]ignature|X-Amz-(?:Signature|Security-Token|Credential))=(?P<a>[^\s&'\"]{12,})",
    ),
)
_SHORT_CHARS = 1000


def is_secret(variable: str, value: str = "") -> bool:
    """Whether an environment variable is taken for a secret: by its name, or for a password in a URL (a proxy's)."""
    return bool(_SECRET_NAME.search(variable)) or bool(_URL_PASSWORD.search(value))


def without_passwords(text: str) -> str:
    """A text with the passwords of the URLs in it hidden: ``http://user:••••••@proxy:3128``."""
    return _URL_PASSWORD.sub(rf"\1:{MASK}", text)


def secret_values(variables: Mapping[str, str]) -> Iterator[str]:
    """The secrets among some environment variables, the passwords in URLs too. A file's path is none."""
    for name, value in variables.items():
        yield from (password for _, password in _URL_PASSWORD.findall(value))
        if _SECRET_NAME.search(name) and not _HARMLESS_NAME.search(name):
            yield value


@dataclass(frozen=True, slots=True)
class _Rule:
    """One kind of secret."""

    hints: tuple[str, ...]
    """In lower case: a text without any of these has no such secret in it."""
    pattern: re.Pattern[str]

    def is_worth_while(self, lower: str) -> bool:
        return any(hint in lower for hint in self.hints)

    def apply(self, text: str) -> str:
        if len(text) <= _SHORT_CHARS:
            return self.pattern.sub(_replacement, text)
        lines = text.splitlines(keepends=True)
        return "".join(self.apply_to_line(line) for line in lines)

    def apply_to_line(self, line: str) -> str:
        return self.pattern.sub(_replacement, line) if self.is_worth_while(line.lower()) else line


_RULES = tuple(_Rule(hints, re.compile(shape)) for hints, shape in _SHAPES)


class SecretMask:
    """Masks texts. Making one takes a millisecond, masking about 20 ms for 1 MB of log; both work in any thread."""

    def __init__(self, known: Iterable[str] = (), environment: Mapping[str, str] = os.environ) -> None:
        """``known`` are secrets, ``environment`` the app's own variables, which servers inherit."""
        values = {value.strip() for value in (*known, *secret_values(environment))}
        wanted = {value for value in values if len(value) >= _SHORTEST and not _HARMLESS.match(value)}
        wanted |= {unquote(value) for value in wanted} | {quote(value, safe="") for value in wanted}
        self._rules = _RULES
        if wanted:
            longest_first = sorted(wanted, key=len, reverse=True)
            pattern = re.compile("|".join(map(re.escape, longest_first)))
            self._rules = (_Rule(tuple(value.lower() for value in longest_first), pattern), *_RULES)

    def text(self, text: str) -> str:
        """The text with every secret replaced; of any length, but whole lines."""
        lower = text.lower()
        for rule in self._rules:
            if rule.is_worth_while(lower):
                text = rule.apply(text)
        return text

    def deep(self, value: _T) -> _T:
        """The same for all texts in a report: dataclasses, mappings, tuples and lists of such, at any depth."""
        found: Any = value
        if isinstance(value, str):
            found = value if isinstance(value, Enum) else self.text(value)
        elif isinstance(value, Mapping):
            found = {key: self.deep(item) for key, item in value.items()}
        elif isinstance(value, tuple | list):
            found = type(value)(self.deep(item) for item in value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            changes = {
                field.name: self.deep(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init
            }
            found = dataclasses.replace(value, **changes)
        masked: _T = found
        return masked


def _replacement(match: re.Match[str]) -> str:
    group = match.lastgroup
    if group is None:
        return _shown(match[0])
    start, end = match.span(group)
    if _is_no_secret(match[group]):
        return match[0]
    return match[0][: start - match.start()] + _shown(match[group]) + match[0][end - match.start() :]


def _is_no_secret(value: str) -> bool:
    """A variable of a shell, nothing at all, or what has been masked before."""
    masked = MASKED.rstrip(")") in value or MASK in value
    return masked or value.startswith("$") or bool(re.fullmatch(r"None|True|False|null|\*+", value))


def _shown(secret: str) -> str:
    prefix = _PREFIX.match(secret)
    return f"{prefix[0] if prefix else ''}{MASKED}"
