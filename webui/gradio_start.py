"""Makes ``import gradio`` quick: 2.0 s of processor time in place of 3.3 s.

At each import Gradio parses the source of all its components to bring ``.pyi`` files for editors up to date, which came
with its wheel anyway (``component_meta.create_or_modify_pyi``; there is no setting against it). A running app has no
use for them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_MODULE, _FUNCTION = "gradio.component_meta", "create_or_modify_pyi"


def import_gradio_without_stubs() -> None:
    """To be called before Gradio is imported for the first time; afterwards it changes nothing."""
    if _MODULE not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WithoutStubs(spec.loader)
        return spec


class _WithoutStubs(Loader):
    """Loads the module as its own loader does, and takes the function out."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if hasattr(module, _FUNCTION):  # another version of Gradio may do without it
            setattr(module, _FUNCTION, lambda *_: None)
