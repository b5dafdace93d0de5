"""The fault suite: python -m tests.faults [--steps 1000] [--seed 1] [--patience 10] [--real]"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from faults.real import real_world  # noqa: E402  # as pytest finds it: below tests/
from faults.suite import run, small_disk  # noqa: E402
from faults.world import World, new_world  # noqa: E402


def report(worlds: list[World], seconds: float) -> str:
    """The figures as a table for docs/reliability.md."""
    settled: Counter[str] = sum((world.settled for world in worlds), Counter())
    rows = "\n".join(f"| {what} | {count} |" for what, count in settled.most_common())
    worst = max(world.worst for world in worlds)
    return (
        f"| fault | survived |\n|---|---|\n{rows}\n| **all** | **{settled.total()}** |\n\n"
        f"Leftovers: 0. Slowest to settle: {worst:.1f} s. The whole run took {seconds / 60:.0f} min."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=10.0, help="seconds until nothing may be left")
    parser.add_argument("--real", action="store_true", help="with the real vLLM (some 20 s for each start)")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        make_world = real_world if arguments.real else new_world
        world = make_world(Path(folder) / "w", arguments.patience)
        with small_disk(world.place.state_dir) as mounted:
            if not mounted:
                print("No small disk can be mounted here: the fault “full disk” is left out.")
            run(world, arguments.seed, arguments.steps, (lambda _: None) if arguments.quiet else print)
        world.place.close()
    print(report([world], time.monotonic() - began))


if __name__ == "__main__":
    main()
