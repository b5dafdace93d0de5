"""What the packages offer: exactly what their ``__init__`` imports, in order."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("package", ["server_manager", "webui"])
def test_all_names_what_is_imported(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    imported = [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    names = importlib.import_module(package).__all__
    assert sorted(names) == sorted(imported)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("package", ["server_manager", "webui"])
def test_all_is_sorted(package: str) -> None:
    """As ruff (RUF022) and a reader want it: constants, classes, functions."""
    names = importlib.import_module(package).__all__

    def rank(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert list(names) == sorted(names, key=rank)


@pytest.mark.parametrize("package", ["server_manager", "webui"])
def test_every_public_name_is_documented(package: str) -> None:
    module = importlib.import_module(package)
    undocumented = [
        name
        for name in module.__all__
        if (callable(found := getattr(module, name)) and not (found.__doc__ or "").strip())
    ]
    assert not undocumented
