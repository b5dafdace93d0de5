"""What the machine's GPUs, memory and processor are doing.

A source of device figures is one module in this package with two names:

- ``PRIORITY: int``: the highest is tried first;
- ``open_probe() -> AcceleratorProbe``: raises ``TelemetryError`` where its driver or hardware is not there. The
  error's text is shown to people. The fact ``absent=True`` says that nothing is wrong: the machine has no such device.

It is found by its file name (one that begins with an underscore is none); nothing else has to know of it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType

from server_manager.errors import TelemetryError
from server_manager.telemetry.base import AcceleratorProbe

NOT_PROBES = frozenset({"base", "differences", "host", "ledger", "sampler"})


def probe_modules() -> tuple[ModuleType, ...]:
    """The probe modules in the order in which they are tried. None of them loads its vendor's library yet."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    probes = [name for name in names if name not in NOT_PROBES and not name.startswith("_")]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in probes]
    return tuple(sorted(modules, key=lambda module: (-int(module.PRIORITY), module.__name__)))


def open_probe(modules: Sequence[ModuleType] | None = None) -> AcceleratorProbe:
    """Opens the first source that works on this machine. Blocking: a driver may take seconds to wake up.

    Raises ``TelemetryError`` where none does. A driver that is there but broken says more than one that is not
    there at all, so the message then leaves the absent ones out.
    """
    failures: list[TelemetryError] = []
    for module in probe_modules() if modules is None else modules:
        try:
            probe: AcceleratorProbe = module.open_probe()
        except TelemetryError as error:
            failures.append(error)
        else:
            return probe
    broken = [error for error in failures if not error.facts.get("absent")]
    message = " ".join(str(error) for error in broken or failures)
    raise TelemetryError(message or "This build has no source of GPU figures.", absent=not broken)
