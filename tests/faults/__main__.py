"""The fault suite: python -m tests.faults [--steps 1000] [--seed 1 2 3] [--patience 10] [--sleep | --real]"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import operator
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from faults.faults import FAULTS, Fault  # noqa: E402  # as pytest finds it: below tests/
from faults.moments import MOMENTS, ON_A_CPU, SLEEP_FAULTS  # noqa: E402
from faults.real import real_world  # noqa: E402
from faults.sleepers import SleepyWorld, sleepy_world  # noqa: E402
from faults.suite import run, small_disk  # noqa: E402
from faults.world import World, new_world  # noqa: E402

KINDS: dict[str, tuple[Callable[[Path, float], World], dict[Fault, int]]] = {
    "plain": (new_world, FAULTS),
    "sleep": (sleepy_world, SLEEP_FAULTS),
    "real": (real_world, ON_A_CPU),
}


@dataclass(frozen=True)
class Survived:
    """What came of one world, or of several together."""

    faults: Counter[str]
    answers: Counter[str]
    worst_seconds: float

    def __add__(self, other: Survived) -> Survived:
        worst = max(self.worst_seconds, other.worst_seconds)
        return Survived(self.faults + other.faults, self.answers + other.answers, worst)


def report(found: Survived, seconds: float) -> str:
    """The figures as tables for docs/reliability.md: all faults, and those in the moments of sleep by moment."""
    plain = Counter({what: count for what, count in found.faults.items() if not what.endswith("]")})
    asleep = sum(found.faults.values()) - sum(plain.values())
    rows = [f"| {what} | {count} |" for what, count in plain.most_common()]
    tables = ["| fault | survived |\n|---|---|", *rows]
    if asleep:
        tables += [f"| in a moment of sleep | {asleep} |"]
    tables += [f"| **all** | **{sum(found.faults.values()):,}** |", ""]
    if asleep:
        tables += [
            f"| fault | {' | '.join(MOMENTS)} |",
            "|---" * (len(MOMENTS) + 1) + "|",
            *in_moments(found.faults),
            "",
        ]
    answers = "".join(f" Answered afterwards: {count:,} {what}." for what, count in found.answers.items())
    return "\n".join(
        [*tables, f"Leftovers: 0. Slowest to settle: {found.worst_seconds:.1f} s.{answers}", f"{seconds / 60:.0f} min."]
    )


def in_moments(faults: Counter[str]) -> list[str]:
    """A row for each fault that befell a server while it slept, fell asleep, …"""
    names = sorted({what.partition(" [")[0] for what in faults if what.endswith("]")})
    return [f"| {name} | {' | '.join(str(faults[f'{name} [{moment}]']) for moment in MOMENTS)} |" for name in names]


def survive(arguments: argparse.Namespace, seed: int) -> Survived:
    """One world. Raises ``AssertionError`` at the first leftover."""
    make_world, table = KINDS[arguments.kind]
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        world = make_world(Path(folder) / "w", arguments.patience)
        with small_disk(world.place.state_dir) as mounted:
            if not mounted:
                print("No small disk can be mounted here: the fault “full disk” is left out.")
            try:
                tell = (lambda _: None) if arguments.quiet else print
                run(world, seed, arguments.steps, tell, table, 60 * arguments.minutes)
            except BaseException as error:  # told at once, while the others go on
                print(f"{seed} FAILED: {error.__context__ or error!s}")
                with contextlib.suppress(AssertionError):
                    world.place.close()
                raise
        world.place.close()
    answers = world.proved if isinstance(world, SleepyWorld) else Counter[str]()
    return Survived(+world.settled, answers, world.worst)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="of each seed")
    parser.add_argument("--minutes", type=float, default=math.inf, help="ends after so many, if steps are left then")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="several run side by side")
    parser.add_argument("--patience", type=float, default=10.0, help="seconds until nothing may be left")
    kinds = parser.add_mutually_exclusive_group()
    for kind, help_text in (
        ("sleep", "with models that sleep, on a pretended GPU"),
        ("real", "with the real vLLM (some 20 s for each start)"),
    ):
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, default="plain", help=help_text)
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    began = time.monotonic()
    with ThreadPoolExecutor(len(arguments.seed)) as pool:
        found = list(pool.map(lambda seed: survive(arguments, seed), arguments.seed))
    print(report(functools.reduce(operator.add, found), time.monotonic() - began))


if __name__ == "__main__":
    main()
