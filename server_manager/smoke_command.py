"""The command ``smoke``: asks a server four prompts and prints the answers with the verdict."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from textwrap import indent
from typing import Any, Protocol
from unicodedata import category
from urllib.parse import quote

from server_manager.smoke.words import rounded
from server_manager.start_report import wait_for_start

_PATIENCE_SECONDS = 900.0
"""It may have to wait in line, and be woken."""
_NOT_UP = ("stopped", "failed", "starting")


class Ask(Protocol):
    """Asks a route of the app that is running."""

    def __call__(self, method: str, path: str, timeout: float = ...) -> Any: ...


def run_smoke(ask: Ask, name: str) -> int:
    """Prints the result; the exit code is 0 where it passed, else 1. A start that it needs is told meanwhile.

    Raises what ``ask`` raises, and ``StartError``.
    """
    path = f"/api/servers/{quote(name, safe='')}"
    status = ask("GET", path)
    if status["state"] in _NOT_UP and not status["attached"]:
        ask("POST", f"{path}/start")
        wait_for_start(lambda: ask("GET", path), out=sys.stderr)
    result = ask("POST", f"{path}/smoke", timeout=_PATIENCE_SECONDS)
    print("\n".join(report_lines(result)), flush=True)
    return 0 if result["verdict"] == "pass" else 1


def report_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """``result`` is the route's answer. The prompt, the answer and its figures; at the end the verdict and why."""
    for prompt in result["prompts"]:
        yield f"{prompt['prompt']} …"
        if prompt["text"] is not None:
            yield indent(_printable(prompt["text"]) or "(nothing)", "    ")
        notes = [*_figures(prompt), *prompt["reasons"]]
        if notes:
            yield f"    [{'; '.join(note.rstrip('.') for note in notes)}]"
        yield ""
    verdict = {"pass": "PASS", "fail": "FAIL"}[result["verdict"]]
    perplexity = f", {_perplexity(result)}" if result["perplexity"] else ""
    yield f"{verdict}: {result['model']}, {result['seconds']:.1f} s{perplexity}"
    yield from (f"- {reason}" for reason in result["reasons"])
    yield from (f"Note: {note}" for note in result["not_judged"])


def _figures(prompt: Mapping[str, Any]) -> Iterator[str]:
    if prompt["tokens"] is not None:
        yield f"{prompt['tokens']} tokens"
    if prompt["perplexity"]:
        yield _perplexity(prompt)


def _perplexity(part: Mapping[str, Any]) -> str:
    known = {which: value for which, value in part["perplexity"].items() if value is not None}
    return "perplexity of " + ", of ".join(f"the {which} {rounded(value)}" for which, value in known.items())


def _printable(text: str) -> str:
    """Control characters, which damaged models may well say, would reach the terminal."""
    return "".join(char if char in "\n\t" or category(char) not in ("Cc", "Cs") else "\ufffd" for char in text).strip()
