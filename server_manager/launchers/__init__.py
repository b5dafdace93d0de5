"""Where servers can run: a module of this package is a launcher, and its name is the launcher's."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

from server_manager.errors import SpecError
from server_manager.launchers.base import Launcher
from server_manager.settings import Settings


def launcher_names() -> tuple[str, ...]:
    """The modules here that have a ``create_launcher``. Imports none of them that has not."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(name for name in found if b"\ndef create_launcher(" in _source(name))


def create_launcher(name: str, settings: Settings) -> Launcher:
    """The launcher of that name. Raises ``SpecError`` with the names there are."""
    if name not in launcher_names():
        raise SpecError(f"There is no launcher {name!r}.", f"Known: {', '.join(launcher_names())}.", key="launcher")
    launcher: Launcher = importlib.import_module(f"{__name__}.{name}").create_launcher(settings)
    return launcher


def _source(name: str) -> bytes:
    spec = importlib.util.find_spec(f"{__name__}.{name}")
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin, "rb") as file:
        return file.read()
