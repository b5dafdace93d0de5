"""The command ``logs``: prints a server's log, and goes on printing with ``--follow``."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, urlencode

_LOOK_SECONDS = 0.5


def print_log(ask: Callable[[str], Any], args: Namespace) -> None:
    """``ask`` gets a path of the REST interface and returns the answer. With ``args.follow`` until Ctrl+C.

    Raises what ``ask`` raises, for example when the app has ended.
    """
    path = f"/api/servers/{quote(args.name, safe='')}/logs"
    wanted = {
        "tail": str(args.tail),
        "search": args.search,
        "run": "previous" if args.previous else "current",
    }
    if not args.follow:
        print(ask(f"{path}?{urlencode(wanted)}"), end="")
        return
    run = cursor = ""
    while True:
        answer = ask(f"{path}?{urlencode({**wanted, 'since': cursor, 'format': 'json'})}")
        if run and answer["run"] != run:
            print(f"--- {args.name} was started anew ---", file=sys.stderr)
        elif run and not answer["continues"]:
            print("--- some lines were too many to follow ---", file=sys.stderr)
        _print_lines(answer["lines"], numbered=bool(args.search))
        run, cursor = answer["run"], answer["cursor"]
        time.sleep(_LOOK_SECONDS)


def _print_lines(lines: Iterable[tuple[int, int | None, str, str]], *, numbered: bool) -> None:
    for _, number, _, text in lines:
        print(f"{number}: {text}" if numbered else text)
    sys.stdout.flush()  # for whoever reads it through a pipe
