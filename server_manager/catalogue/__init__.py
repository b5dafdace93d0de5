"""The models that can be served: YAML files shipped with the app (this folder) and the user's own.

Each is valid for ``vllm serve --config FILE``. Beside the user's ``NAME.yaml`` a ``NAME.env`` (dotenv) adds to vLLM's
environment, for shipped models too; ``defaults.env`` does so for all. That is how a source is chosen:
``VLLM_USE_MODELSCOPE=True`` or ``HF_ENDPOINT=https://…``.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from server_manager.catalogue.model_file import dump_env, dump_model, parse_model, read_env, read_model
from server_manager.errors import NotAllowed, SpecError, StateDirError, UnknownModel
from server_manager.model_spec import ModelSpec, check_name

__all__ = ["SHIPPED_DIR", "Catalogue"]

SHIPPED_DIR = Path(__file__).parent

_SUFFIXES = (".yaml", ".yml")

_Stamp = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The result of one look at the disk."""

    stamps: tuple[_Stamp, ...] = ()
    specs: Mapping[str, ModelSpec] = field(default_factory=dict)
    problems: Mapping[str, SpecError] = field(default_factory=dict)
    """By the name of the model that the file would have been."""


class Catalogue:
    """The files of both folders, read again whenever one of them has changed.

    A user's file goes before a shipped one of the same name, also when it cannot be read: then the model is missing
    and the reason stands in ``problems``.
    """

    def __init__(self, models_dir: Path, shipped_dir: Path = SHIPPED_DIR) -> None:
        self.models_dir = models_dir
        self.shipped_dir = shipped_dir
        self._loaded: _Loaded | None = None
        # Threads ask too; without it one that began earlier could put its older look in the place of a newer one.
        self._lock = threading.RLock()

    def load(self) -> None:
        """Reads all files."""
        stamps = self._stamps()
        specs: dict[str, ModelSpec] = {}
        problems: dict[str, SpecError] = {}
        try:
            defaults, default_warnings = read_env(self.models_dir / "defaults.env")
        except SpecError as error:
            problems["defaults"] = error
            defaults, default_warnings = {}, []
        for folder in (self.shipped_dir, self.models_dir):
            seen: dict[str, Path] = {}
            for path in _model_files(folder):
                specs.pop(path.stem, None)
                problems.pop(path.stem, None)
                try:
                    if path.stem in seen:
                        raise SpecError(
                            f"{path.name} and {seen[path.stem].name} are the same model.", "Remove one.", path=str(path)
                        )
                    seen[path.stem] = path
                    own, warnings = read_env(self.models_dir / f"{path.stem}.env")
                    specs[path.stem] = read_model(
                        path,
                        env=defaults | own,
                        shipped=folder == self.shipped_dir,
                        warnings=[*default_warnings, *warnings],
                    )
                except SpecError as error:
                    problems[path.stem] = error
        self._loaded = _Loaded(stamps, specs, problems)

    def reload(self) -> bool:
        """Reads the files again if one was changed, added or removed; returns whether it did. Under a millisecond."""
        if self._loaded is not None and self._loaded.stamps == self._stamps():
            return False
        self.load()
        return True

    def names(self) -> tuple[str, ...]:
        """All models that can be served: the user's own first, then the shipped ones, each in natural order."""
        return tuple(spec.name for spec in self.specs())

    def specs(self) -> tuple[ModelSpec, ...]:
        """In the order of ``names``."""
        specs = self._current().specs.values()
        return tuple(sorted(specs, key=lambda spec: (spec.shipped, _natural(spec.name))))

    def get(self, name: str) -> ModelSpec:
        """Raises ``UnknownModel``, or the file's own ``SpecError`` where there is one that cannot be read."""
        current = self._current()
        if spec := current.specs.get(name):
            return spec
        if problem := current.problems.get(name):
            raise SpecError(problem.message, problem.next_step, **problem.facts)
        known = self.names()
        raise UnknownModel(f"There is no model {name!r}.", f"Known are {', '.join(known)}.", name=name, known=known)

    @property
    def problems(self) -> tuple[SpecError, ...]:
        """One for each file that could not be read; all others are there."""
        return tuple(self._current().problems.values())

    def save(self, spec: ModelSpec) -> Path:
        """Writes the user's file for ``spec`` and, where its environment asks for one, ``NAME.env`` (mode 0600).

        Either file is replaced as a whole or not at all. Raises ``SpecError`` for a spec that could not be read
        again, and ``StateDirError`` where the folder cannot be written.
        """
        path = self.models_dir / f"{spec.name}.yaml"
        env_path = self.models_dir / f"{spec.name}.env"
        text = dump_model(spec)
        parse_model(text, path, env={}, shipped=False)
        try:
            defaults, _ = read_env(self.models_dir / "defaults.env")
            own = {key: value for key, value in spec.env.items() if defaults.get(key) != value}
            self.models_dir.mkdir(parents=True, exist_ok=True)
            if own:
                _replace(env_path, dump_env(own), 0o600)
            else:
                env_path.unlink(missing_ok=True)
            _replace(path, text, 0o644)
            (self.models_dir / f"{spec.name}.yml").unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.models_dir, error) from error
        self.load()
        return path

    def defaults(self) -> Mapping[str, str]:
        """The variables of ``defaults.env``, which all models get; empty where there is none or it cannot be read."""
        try:
            return read_env(self.models_dir / "defaults.env")[0]
        except SpecError:  # it stands in `problems`
            return {}

    def environment(self, name: str) -> Mapping[str, str]:
        """The variables that a model of that name gets, also where its YAML is missing or cannot be read.

        Raises ``SpecError`` where ``NAME.env`` cannot be read: whoever replaced it would lose what stands in it.
        """
        check_name(name)
        return {**self.defaults(), **read_env(self.models_dir / f"{name}.env")[0]}

    def save_defaults(self, variables: Mapping[str, str]) -> None:
        """Writes ``defaults.env`` (mode 0600). Raises ``StateDirError`` where the folder cannot be written."""
        try:
            self.models_dir.mkdir(parents=True, exist_ok=True)
            _replace(self.models_dir / "defaults.env", dump_env(variables), 0o600)
        except OSError as error:
            raise _unwritable(self.models_dir, error) from error
        self.load()

    def delete(self, name: str) -> None:
        """Removes the user's file; a shipped one of the same name is there again afterwards.

        Raises ``NotAllowed`` for a shipped model and ``UnknownModel``.
        """
        check_name(name)
        own = [path for suffix in _SUFFIXES if (path := self.models_dir / f"{name}{suffix}").is_file()]
        if not own:
            self.get(name)
            raise NotAllowed(f"{name} came with the app and cannot be deleted.", "Only your own models can.", name=name)
        try:
            for path in own:
                path.unlink(missing_ok=True)
            (self.models_dir / f"{name}.env").unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.models_dir, error) from error
        self.load()

    def _current(self) -> _Loaded:
        with self._lock:
            self.reload()
            assert self._loaded is not None
            return self._loaded

    def _stamps(self) -> tuple[_Stamp, ...]:
        stamps: list[_Stamp] = []
        for folder in (self.shipped_dir, self.models_dir):
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith((*_SUFFIXES, ".env")):
                        with contextlib.suppress(OSError):  # removed in between
                            stat = entry.stat()
                            stamps.append((entry.path, stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(sorted(stamps))


def _model_files(folder: Path) -> list[Path]:
    """Sorted; an editor's hidden files left out."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix in _SUFFIXES and not path.name.startswith(".")]
        return sorted(path for path in paths if path.is_file())
    except OSError:  # no such folder yet, or none of ours to read
        return []


def _natural(name: str) -> list[tuple[int, float, str]]:
    """``Qwen3-4B`` before ``Qwen3-14B``, and ``0.6B`` before ``1.7B``."""
    parts = re.findall(r"(\d+(?:\.\d+)?)|(\D+)", name.lower())
    return [(0, float(number), "") if number else (1, 0.0, text) for number, text in parts]


def _replace(path: Path, text: str, mode: int) -> None:
    """Writes a file beside ``path`` and puts it in its place."""
    handle, draft = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:
            os.fchmod(handle, mode)
            file.write(text)
            file.flush()
            os.fsync(handle)
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def _unwritable(folder: Path, error: OSError) -> StateDirError:
    return StateDirError(
        f"{folder} cannot be written: {error.strerror}.",
        "Free some space or choose another folder with --models-dir.",
        path=str(folder),
        errno=error.errno,
    )
