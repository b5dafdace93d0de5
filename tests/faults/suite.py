"""A random sequence of faults, repeatable by its seed, with a look after each at what is left."""

from __future__ import annotations

import math
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from faults.faults import FAULTS, Fault, next_app
from faults.world import World


def run(
    world: World,
    seed: int,
    steps: int,
    tell: Callable[[str], None] = lambda _: None,
    table: Mapping[Fault, int] = FAULTS,
    seconds: float = math.inf,
) -> None:
    """Runs so many faults out of ``table``, or as many as begin within so many seconds.

    Each is followed by ``World.settle``, and by a question to the model that it befell where that is asked for
    (``World.prove``). Raises ``AssertionError`` at the first leftover.
    """
    chance, deadline = random.Random(seed), time.monotonic() + seconds
    faults, weights = list(table), list(table.values())
    done = 0
    try:
        world.start_app(keep=False)
        while done < steps and time.monotonic() < deadline:
            # Two in three times the next app comes right after the last, else something else befalls the servers first.
            fault = next_app if world.app is None and chance.random() < 0.67 else chance.choices(faults, weights)[0]
            began = time.monotonic()
            if (what := fault(world, chance)) is None:
                continue
            done += 1
            world.settle(what)
            world.prove()
            tell(f"{seed}/{done} {what}: {time.monotonic() - began:.1f} s")
    finally:
        world.close()


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of 24 MiB at ``folder``, where this user may mount one; whether that is so."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "deck-faults", str(folder)],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)
