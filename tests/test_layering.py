"""The rules that hold the code together, read from the source: who may import what, and how long things may get."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("server_manager", "webui")
LONGEST_FILE, LONGEST_FUNCTION = 400, 80

FORBIDDEN = {
    "server_manager": {"gradio", "gradio_client", "fastapi", "starlette", "uvicorn", "webui", "app"},
    "webui": {"app", "subprocess", "signal", "psutil", "pynvml", "openai", "aiohttp", "httpx", "httpx2"},
}
"""Top-level names that no module of a package imports."""
NOWHERE = {"vllm", "torch", "transformers"}
"""They live in vLLM's own process, perhaps in another environment."""
SCRIPTS = {"server_manager/convert_gguf.py"}
"""Run by vLLM's interpreter, as a process of its own."""
FENCED = {
    "pynvml": {"server_manager/telemetry/nvml.py"},
    "subprocess": {"server_manager/launchers/local.py", "server_manager/bundled.py"},
    "openai": {"server_manager/client.py"},
    "aiohttp": {"server_manager/client.py"},
    # client.py asks servers our own questions; upstream.py passes on what the gateway's clients ask, at less cost.
    "httptools": {"server_manager/upstream.py"},
    "huggingface_hub": {"server_manager/downloads.py"},
    "modelscope": {"server_manager/downloads.py"},
    "matplotlib": {"server_manager/load_test/chart.py"},
}
"""Vendors, and the modules that may know them."""
PLUGINS = {
    "server_manager.launchers": {"base", "guardian", "leftovers", "local_handle", "process_tree"},
    "server_manager.telemetry": {"_calls", "base", "differences", "host", "ledger", "sampler"},
    "webui.tabs": set(),
}
"""Packages whose modules are found by looking, with their modules that are no plugins."""


def _dotted(node: ast.expr) -> str:
    """``a.b`` of such an expression, empty of any other; ``ast.unparse`` takes a hundred times as long."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


class Module:
    """One source file and what it imports."""

    def __init__(self, path: Path) -> None:
        self.path = path.relative_to(ROOT).as_posix()
        self.name = self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.is_package = path.name == "__init__.py"
        self.source = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.source)
        self.imports = set(self._imports())

    def _imports(self) -> Iterator[str]:
        """Full names, as ``a.b.c`` for ``from a.b import c`` too; those for type checkers alone left out."""
        free = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and _dotted(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
            for inner in ast.walk(node)
        }
        for node in ast.walk(self.tree):
            if id(node) in free:
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self.name if self.is_package else self.name.rpartition(".")[0]
                for _ in range(max(node.level - 1, 0)):
                    base = base.rpartition(".")[0]
                start = ".".join(filter(None, (base if node.level else "", node.module)))
                yield from (f"{start}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Call) and _dotted(node.func) in ("importlib.import_module", "__import__"):
                yield from (str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))

    @cached_property
    def used(self) -> set[str]:
        """The modules of ours that it imports, or of which it imports a name."""
        return {found for name in self.imports if (found := _module_of(name))}

    @property
    def top_names(self) -> set[str]:
        return {name.partition(".")[0] for name in self.imports}


def _modules(*folders: str) -> list[Module]:
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return [Module(path) for path in (*paths, ROOT / "app.py")]


MODULES = _modules(*PACKAGES)
NAMES = {module.name for module in MODULES}


def _module_of(imported: str) -> str | None:
    """The module of ours that an imported name is or lies in."""
    while imported and imported not in NAMES:
        imported = imported.rpartition(".")[0]
    return imported or None


def test_packages_import_nothing_that_they_must_not_know() -> None:
    found = {}
    for module in MODULES:
        forbidden = FORBIDDEN.get(module.path.partition("/")[0], set())
        found[module.path] = module.top_names & (forbidden | (set() if module.path in SCRIPTS else NOWHERE))
    assert not _only_full(found)


def test_scripts_of_other_processes_are_imported_by_nobody() -> None:
    scripts = {path.removesuffix(".py").replace("/", ".") for path in SCRIPTS}
    assert not _only_full({module.path: scripts & module.used for module in MODULES})


def test_vendors_are_known_only_behind_their_fences() -> None:
    found = {
        module.path: {vendor for vendor, fence in FENCED.items() if module.path not in fence} & module.top_names
        for module in MODULES
    }
    assert not _only_full(found)


def test_page_knows_only_the_public_names_of_server_manager() -> None:
    """Only app.py reaches inside, so that its commands need not import all."""
    public = {f"server_manager.{name}" for name in _exported("server_manager")}
    found = {
        module.path: {name for name in module.imports if name.startswith("server_manager.")} - public
        for module in MODULES
        if module.path.startswith("webui/")
    }
    assert not _only_full(found)


def test_plugins_are_imported_by_nobody() -> None:
    for package, others in PLUGINS.items():
        plugins = {
            name
            for name in NAMES
            if name.startswith(f"{package}.") and name.removeprefix(f"{package}.").partition(".")[0] not in others
        }
        assert plugins, f"{package} has no plugins: is the table above still right?"
        assert not _only_full({module.path: module.used & (plugins - {module.name}) for module in MODULES})


def test_there_are_no_import_cycles() -> None:
    graph = {module.name: module.used - {module.name} for module in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import cycle: {' -> '.join((*path[path.index(name) :], name))}"
        if name in done:
            return
        for other in sorted(graph[name]):
            visit(other, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_nothing_is_too_long_to_read() -> None:
    files = {module.path: len(module.source.splitlines()) for module in MODULES}
    assert not {path: lines for path, lines in files.items() if lines > LONGEST_FILE}
    functions = {
        f"{module.path}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {where: lines for where, lines in functions.items() if lines > LONGEST_FUNCTION}


def test_there_is_no_global_state() -> None:
    found = {m.path: [node.lineno for node in ast.walk(m.tree) if isinstance(node, ast.Global)] for m in MODULES}
    assert not _only_full(found)


def test_the_composition_root_stays_short() -> None:
    assert len((ROOT / "app.py").read_text(encoding="utf-8").splitlines()) < 100


def _only_full(found: Mapping[str, Collection[object]]) -> dict[str, Collection[object]]:
    return {path: what for path, what in found.items() if what}


def _exported(package: str) -> set[str]:
    module = next(module for module in MODULES if module.name == package)
    assigned = next(
        node.value
        for node in module.tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return set(ast.literal_eval(assigned))
