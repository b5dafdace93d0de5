"""Finds launchers by name, so that a new one is one new file in ``launchers``."""

from __future__ import annotations

import importlib
import pkgutil

from server_manager import launchers
from server_manager.errors import SpecError
from server_manager.launchers.base import Launcher
from server_manager.settings import Settings


def create_launcher(name: str, settings: Settings) -> Launcher:
    """The launcher of that name. Raises ``SpecError`` with the names there are."""
    modules = {
        found.name: importlib.import_module(f"{launchers.__name__}.{found.name}")
        for found in pkgutil.iter_modules(launchers.__path__)
    }
    known = {key: module.create_launcher for key, module in modules.items() if hasattr(module, "create_launcher")}
    if name not in known:
        raise SpecError(f"There is no launcher {name!r}.", f"Known: {', '.join(known)}.", key="launcher")
    launcher: Launcher = known[name](settings)
    return launcher
