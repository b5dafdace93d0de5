"""What Gradio does at a start that nobody needs, left out.

Its import takes 1.8 s of processor time in place of 3.3 s, without the garbage collector (see app.py):

- At each import Gradio parses the source of all its components to bring ``.pyi`` files for editors up to date, which
  came with its wheel anyway (``component_meta.create_or_modify_pyi``; there is no setting against it). A running app
  has no use for them.
- Where it finds the package ``mcp``, which comes with vLLM, it imports all of it, to be able to offer the page to
  agents.
  That is off unless somebody turns it on (``GRADIO_MCP_SERVER``).

And the page is built in a third of the time (``no_apps``).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_MODULE, _FUNCTION = "gradio.component_meta", "create_or_modify_pyi"


def import_gradio() -> None:
    """Where it has been imported before, it changes nothing."""
    if "gradio" in sys.modules:
        return
    sys.meta_path.insert(0, _Finder())
    if os.environ.get("GRADIO_MCP_SERVER", "").lower() == "true":
        importlib.import_module("gradio")
    else:
        with _absent("mcp"):
            importlib.import_module("gradio")


@contextlib.contextmanager
def no_apps() -> Iterator[None]:
    """Meanwhile Gradio makes no web app of a page.

    Else it makes one when the page begins, one when its queue is set up and one when it is whole, an eighth of a second
    each, of which none is used where the page is mounted: for that it makes another.
    """
    from gradio.routes import App  # noqa: PLC0415  # see import_gradio

    create_app = App.create_app
    App.create_app = staticmethod(lambda *_, **__: None)
    try:
        yield
    finally:
        App.create_app = staticmethod(create_app)


@contextlib.contextmanager
def _absent(name: str) -> Iterator[None]:
    """As if this package were not installed; later imports find it."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say so
    try:
        yield
    finally:
        del sys.modules[name]


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
