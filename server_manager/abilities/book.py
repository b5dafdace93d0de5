"""The abilities of the catalogue's models, read from their files and kept until one of those changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from server_manager.abilities.chat_template import Template, built_in_template, read_template
from server_manager.abilities.recommendations import ByMode, family_of, recommended_by_mode
from server_manager.abilities.sight import sees
from server_manager.downloads import cached_file
from server_manager.generation_config import overrides_of, recommended_for
from server_manager.model_files import read_object, read_text
from server_manager.model_spec import ModelSpec

log = logging.getLogger(__name__)
T = TypeVar("T")

_LARGEST_FILE = 32 * 2**20
"""A ``tokenizer_config.json`` with all its added tokens has some megabytes at most."""
_FILES = ("config.json", "params.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
_LOOK_SECONDS = 5.0
"""How long what is known is not compared with the disk again."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """Of one model. ``None``: its files are not on this machine, or do not tell."""

    template: Template | None = None
    vision: bool | None = None
    sampling: ByMode = field(default_factory=lambda: ByMode({}, {}, {}))
    parses_thinking: bool = False
    """Whether vLLM tells thinking apart itself (``--reasoning-parser``)."""

    def template_kwargs(self, thinking: bool | None) -> dict[str, bool]:
        """The request's ``chat_template_kwargs`` for a wish; empty for the template's own way."""
        if thinking is None:
            return {}
        if self.template is None:  # nobody knows which it has; vLLM leaves out what a template does not use
            return {"enable_thinking": thinking, "thinking": thinking}
        return {} if self.template.switch is None else {self.template.switch: thinking}

    def begins_inside(self, thinking: bool | None) -> bool:
        """Whether answers begin within the thinking, without a tag, and vLLM leaves it in the text."""
        if self.parses_thinking or self.template is None or not self.template.opens_thinking:
            return False
        return self.template.switch is None or (self.template.thinks_unasked if thinking is None else thinking)

    def as_dict(self) -> dict[str, Any]:
        """For the REST interface."""
        thinking = self.template and {
            "switch": self.template.switch is not None,
            "recommended": {"on": dict(self.sampling.thinking), "off": dict(self.sampling.plain)},
        }
        return {"thinking": thinking, "vision": self.vision}


UNKNOWN = Abilities()

_Stamps = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    spec: ModelSpec
    stamps: _Stamps
    looked_at: float
    abilities: Abilities


class AbilityBook:
    """One for the whole app."""

    def __init__(self, local_files: Callable[[ModelSpec], ModelSpec]) -> None:
        """``local_files`` gives a spec with its model where its files are, if we made them."""
        self._local_files = local_files
        self._entries: dict[str, _Entry] = {}

    async def of(self, specs: Iterable[ModelSpec]) -> dict[str, Abilities]:
        """By name; what is not known is read in a thread."""
        known = {spec.name: (spec, self.known(spec)) for spec in specs}
        missing = [spec for spec, abilities in known.values() if abilities is None]
        read = await asyncio.to_thread(lambda: {spec.name: self.look(spec) for spec in missing}) if missing else {}
        return {name: read[name] if abilities is None else abilities for name, (_, abilities) in known.items()}

    def known(self, spec: ModelSpec) -> Abilities | None:
        """What was read some seconds ago at most. Never blocks."""
        entry = self._entries.get(spec.name)
        if entry is None or entry.spec is not spec or time.monotonic() - entry.looked_at > _LOOK_SECONDS:
            return None
        return entry.abilities

    def look(self, spec: ModelSpec) -> Abilities:
        """Compares with the disk and reads what has changed. Blocks for a millisecond; to be called in a thread."""
        if (found := self.known(spec)) is not None:
            return found
        local = self._local_files(spec)
        paths = _paths(local)
        stamps = _stamps(paths, local)
        entry = self._entries.get(spec.name)
        if entry is not None and entry.spec is spec and entry.stamps == stamps:
            abilities = entry.abilities
        else:
            abilities = _read(local, paths)
        self._entries[spec.name] = _Entry(spec, stamps, time.monotonic(), abilities)
        return abilities


def _read(spec: ModelSpec, paths: Mapping[str, Path]) -> Abilities:
    config = _json(paths, "config.json")
    if config is None:
        config = _json(paths, "params.json")  # Mistral's own format
    given = config.get("model_type") if config else None
    model_type = given if isinstance(given, str) else None
    template = read_template(
        spec.options.get("chat-template"), lambda name: _text(paths, name), _json(paths, "tokenizer_config.json") or {}
    )
    if template is None and config is not None:
        template = built_in_template(model_type)
    has_switch = template is not None and template.switch is not None
    sampling = recommended_by_mode(
        family_of(model_type, spec.model) if has_switch else None,
        recommended_for(spec),
        overrides_of(spec),
        thinks_unasked=template is not None and template.thinks_unasked,
    )
    return Abilities(
        template,
        vision=None if config is None else sees(config, spec.options),
        sampling=sampling,
        parses_thinking=bool(spec.options.get("reasoning-parser")),
    )


def _paths(spec: ModelSpec) -> dict[str, Path]:
    revision, folder = spec.options.get("revision"), spec.options.get("download-dir")
    env = {**spec.vllm_env, **({"HF_HUB_CACHE": str(folder)} if folder else {})}
    found = {}
    for name in _FILES:
        if path := cached_file(spec.model, name, revision=None if revision is None else str(revision), env=env):
            found[name] = path
        elif name == "params.json" and not found:  # a model that is not here: the others need not be looked for
            break
    return found


def _stamps(paths: Mapping[str, Path], spec: ModelSpec) -> _Stamps:
    given = spec.options.get("chat-template")
    own = [Path(given).expanduser()] if isinstance(given, str) and "{" not in given else []
    found = []
    for path in (*paths.values(), *own):
        try:
            stat = path.stat()
            found.append((str(path), stat.st_mtime_ns, stat.st_size))
        except OSError:
            found.append((str(path), 0, 0))
    return tuple(found)


def _text(paths: Mapping[str, Path], name: str) -> str | None:
    return _read_file(paths.get(name), read_text)


def _json(paths: Mapping[str, Path], name: str) -> Mapping[str, Any] | None:
    return _read_file(paths.get(name), read_object)


def _read_file(path: Path | None, read: Callable[[Path, int], T]) -> T | None:
    """``None`` where there is none, or none that can be used."""
    if path is None:
        return None
    try:
        return read(path, _LARGEST_FILE)
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s is not used: %s", path, error)
        return None
