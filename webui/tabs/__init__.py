"""The page's tabs. A module in this package is a tab: it has ``ID``, ``TITLE`` (a key of the locales), ``ORDER`` and
``build(context, shell)``."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast

from webui.context import AppContext
from webui.shell import Shell


class TabModule(Protocol):
    """What a tab's module has."""

    ID: str
    TITLE: str
    ORDER: int

    def build(self, context: AppContext, shell: Shell) -> None: ...


def discover() -> list[TabModule]:
    """All tabs, in their order."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return sorted((cast(TabModule, module) for module in modules), key=lambda tab: tab.ORDER)
