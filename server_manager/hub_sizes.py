"""How large models are that are not on this machine, as their hub says.

Asked one after the other in the background, and kept for a week. Where a hub does not answer (a closed network) it is
left alone for a while: sizes are for information.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from server_manager.daemon_call import in_daemon_thread
from server_manager.downloads import hub_files, uses_modelscope
from server_manager.estimate_file import read_entries, write_entries
from server_manager.model_spec import ModelSpec, is_local

log = logging.getLogger(__name__)

_FRESH_SECONDS = 7 * 24 * 3600.0
_AGAIN_SECONDS = 600.0
"""After a hub, or a model on it, gave no answer."""
_MOST_ENTRIES = 500
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
"""vLLM downloads the first kind of which there are any."""
_NOT_DOWNLOADED = "original/*"


@dataclass(frozen=True, slots=True)
class HubSize:
    """One model on its hub. Bytes; both 0 where the hub knows no such model, or does not show it."""

    weights_bytes: int
    download_bytes: int
    """What vLLM downloads: of Hugging Face the weights, of ModelScope everything."""


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    at: float
    """Unix time in seconds."""
    size: HubSize


class HubSizes:
    """Methods belong to the event loop, but for ``known`` and ``weights_bytes``."""

    def __init__(self, path: Path) -> None:
        """``path`` is the file in which they are kept; it is read when first needed."""
        self._path = path
        self._entries: dict[str, _Entry] | None = None
        self._silent_until: dict[str, float] = {}
        """By hub, on the clock of ``time.monotonic``."""
        self._asking: asyncio.Task[None] | None = None
        self.version = 0
        """Grows with each size that has become known."""

    def known(self, spec: ModelSpec) -> HubSize | None:
        """What is known without a request; ``None``: nothing. Reads a file the first time."""
        entry = self._loaded().get(_key(spec))
        return entry.size if entry is not None and entry.size.weights_bytes else None

    def weights_bytes(self, spec: ModelSpec) -> int | None:
        """Of what is ``known``."""
        size = self.known(spec)
        return size.weights_bytes if size is not None else None

    def want(self, specs: Iterable[ModelSpec]) -> None:
        """Begins to ask for those that are not known, unless that is going on."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(tuple(specs)), name="sizes of models on hubs")

    async def until_asked(self) -> None:
        """Waits for what ``want`` has begun."""
        if self._asking is not None:
            await asyncio.wait({self._asking})

    async def close(self) -> None:
        """Ends the asking; a request that is on is left to itself."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _ask(self, specs: tuple[ModelSpec, ...]) -> None:
        entries = await asyncio.to_thread(self._loaded)
        for spec in specs:
            key, hub = _key(spec), _hub(spec)
            old = entries.get(key)
            age = time.time() - old.at if old is not None else _FRESH_SECONDS
            fresh = _FRESH_SECONDS if old is not None and old.size.weights_bytes else _AGAIN_SECONDS
            if is_local(spec.model) or age < fresh or time.monotonic() < self._silent_until.get(hub, 0.0):
                continue
            if _is_offline(spec):
                continue
            try:
                files = await in_daemon_thread("hub", partial(_files_of, spec))
            except OSError as error:
                log.info("the sizes of models on %s are not known: %s", hub, error)
                self._silent_until[hub] = time.monotonic() + _AGAIN_SECONDS
                continue
            entries[key] = _Entry(key, time.time(), _size_of(files, whole=uses_modelscope(_variables(spec))))
            self.version += 1
            await asyncio.to_thread(self._save, tuple(entries.values()))

    def _loaded(self) -> dict[str, _Entry]:
        if self._entries is None:
            self._entries = {entry.key: entry for entry in read_entries(self._path, "models", _entry_from_json)}
        return self._entries

    def _save(self, entries: tuple[_Entry, ...]) -> None:
        write_entries(self._path, "models", [asdict(entry) for entry in entries[-_MOST_ENTRIES:]])


def _files_of(spec: ModelSpec) -> dict[str, int]:
    return hub_files(spec.model, revision=_revision(spec), env=spec.vllm_env)


def _size_of(files: Mapping[str, int], *, whole: bool) -> HubSize:
    wanted = {path: size for path, size in files.items() if not fnmatch(path, _NOT_DOWNLOADED)}
    kinds = ({path for path in wanted if fnmatch(path, pattern)} for pattern in _WEIGHTS)
    weights = sum(wanted[path] for path in next(filter(None, kinds), ()))
    return HubSize(weights, sum(files.values()) if whole else weights)


def _variables(spec: ModelSpec) -> dict[str, str]:
    return {**os.environ, **spec.vllm_env}


def _is_offline(spec: ModelSpec) -> bool:
    variables = _variables(spec)
    wished = variables.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}
    return wished and not uses_modelscope(variables)


def _hub(spec: ModelSpec) -> str:
    variables = _variables(spec)
    if uses_modelscope(variables):
        return variables.get("MODELSCOPE_DOMAIN") or "ModelScope"
    return (variables.get("HF_ENDPOINT") or "Hugging Face").rpartition("@")[2]


def _revision(spec: ModelSpec) -> str | None:
    revision = spec.options.get("revision")
    return None if revision is None else str(revision)


def _key(spec: ModelSpec) -> str:
    return f"{_hub(spec)} {spec.model} {_revision(spec) or ''}"


def _entry_from_json(found: Any) -> _Entry | None:
    """``None`` for what was written by another version, or edited by hand."""
    try:
        size = found["size"]
        return _Entry(
            str(found["key"]),
            float(found["at"]),
            HubSize(max(0, int(size["weights_bytes"])), max(0, int(size["download_bytes"]))),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
