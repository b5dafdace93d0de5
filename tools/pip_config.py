"""pip's own configuration, told to uv, which does not read it.

Whoever works behind a proxy, a mirror or a folder of wheels has configured pip already. What they set for uv itself
(``UV_*``) goes first.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Mapping
from pathlib import Path

_TO_UV = {
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
    "proxy": ("HTTP_PROXY", "HTTPS_PROXY"),
    "timeout": ("UV_HTTP_TIMEOUT",),
    "index-url": ("UV_DEFAULT_INDEX",),
}
"""Options with one value, and the variables that uv reads for them."""

_LISTS_TO_UV = {
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
}
"""Options with several values (pip separates them by white space), the variable, and uv's separator."""

_TRUE = ("1", "y", "yes", "on", "t", "true")


def parse_pip_config(listing: str) -> dict[str, str]:
    """Reads the output of ``pip config list``: lines such as ``global.find-links='/wheels'``.

    As in pip, a value for ``install`` beats one from ``global``, and the environment beats both.
    """
    by_section: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        key, separator, value = line.partition("=")
        section, _, option = key.partition(".")
        if separator and section in by_section:
            by_section[section][option.removeprefix("default-")] = str(ast.literal_eval(value))
    return by_section["global"] | by_section["install"] | by_section[":env:"]


def uv_environment(pip_config: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The environment in which uv looks where pip would look.

    Variables and not arguments: an index's address may hold a password, and arguments can be seen in ``ps``.
    """
    wanted: dict[str, str] = {}
    for option, variables in _TO_UV.items():
        if value := pip_config.get(option, "").strip():
            wanted |= dict.fromkeys(variables, value)
    for option, (variable, separator) in _LISTS_TO_UV.items():
        if values := pip_config.get(option, "").split():
            wanted[variable] = separator.join(values)
    if pip_config.get("no-index", "").lower() in _TRUE:
        wanted["UV_NO_INDEX"] = "1"
    if "UV_INDEX" in wanted:
        wanted["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip's own rule: the best version of all indexes
    env = wanted | {name: value for name, value in environ.items() if value or name not in wanted}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # without .pyc files each vLLM process starts about 12 s later
    return env


def read_pip_config(python: Path) -> dict[str, str]:
    """What the pip of this interpreter is configured with; empty where that cannot be asked."""
    listing = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    return parse_pip_config(listing.stdout) if listing.returncode == 0 else {}
