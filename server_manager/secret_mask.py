"""Keeps secrets out of what people get to see: logs, reports, commands.

Two nets: the values that the app knows (its own variables, those of the models, the servers' keys), and the shapes of
well-known tokens. What is found becomes ``hf_…(masked)``.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
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
_SHAPES = (
    # The test for a word's beginning stands behind the literal text: so the whole search goes by first characters.
    r"hf_(?<!\w...)(?:(?:oauth|jwt)_[\w.-]{16,}|[A-Za-z0-9]{20,})",
    r"sk-(?<![\w-]...)(?=[\w-]*\d)[\w-]{16,}",
    r"gh[pousr]_(?<!\w....)[A-Za-z0-9]{30,}",
    r"github_pat_\w{30,}",
    r"glpat-[\w-]{16,}",
    r"xox[abp]-[\w-]{10,}",
    r"nvapi-[\w-]{30,}",
    r"ms-(?<![\w-]...)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    r"AIza[\w-]{35}",
    r"A(?:KIA|SIA)(?<!\w....)[A-Z0-9]{16}(?![A-Za-z0-9])",
    r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
)
_WITHIN = (
    # What comes before the group "value…" stays.
    r"[Bb]earer\s+(?P<value1>(?=\S*\d|\S{24})[\w.~+/=-]{8,})",
    rf"{_NAMES}['\"]?\s*[=:]\s*\[?\s*['\"](?P<value2>[^'\"\s]{{4,}})",
    rf"{_NAMES}(?:=|\s*:\s+(?=\S*\d\S*)(?=\S{{16}}))(?P<value3>[^\s'\",;&)\]}}]{{6,}})",
    r"--(?:api-key|hf-token)[ =](?P<value4>[^\s'\"$]+)",
    r"://[^\s/:@'\"]*:(?P<value5>[^\s/@'\"]+)(?=@)",
    r"[?&](?:[Tt]oken|sig|[Ss]ignature|X-Amz-Signature|X-Amz-Security-Token|X-Amz-Credential)=(?P<value6>[^\s&'\"]{12,})",
)


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


class SecretMask:
    """Masks texts. Making one takes a millisecond, masking some 20 ns a character; both work in any thread."""

    def __init__(self, known: Iterable[str] = (), environment: Mapping[str, str] = os.environ) -> None:
        """``known`` are secrets, ``environment`` the app's own variables, which servers inherit."""
        values = {value.strip() for value in (*known, *secret_values(environment))}
        wanted = {value for value in values if len(value) >= _SHORTEST and not _HARMLESS.match(value)}
        wanted |= {unquote(value) for value in wanted} | {quote(value, safe="") for value in wanted}
        literal = [re.escape(value) for value in sorted(wanted, key=len, reverse=True)]
        self._pattern = re.compile("|".join((*literal, *_SHAPES, *_WITHIN)))

    def text(self, text: str) -> str:
        """The text with every secret replaced; of any length, but whole lines."""
        return self._pattern.sub(_replacement, text)

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
