"""Which server a request means: by the name of the catalogue, or by any name that a server answers to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from server_manager.errors import ServerManagerError, UnknownModel
from server_manager.manager import ServerManager
from server_manager.model_spec import ModelSpec
from server_manager.server_state import ServerState, ServerStatus

_FRESH_S = 1.0
"""How long names are taken as read: a look at the model files takes half a millisecond, and each request needs one."""
_AWAKE_FIRST = (ServerState.READY, ServerState.ASLEEP, ServerState.STARTING)


class ModelNames:
    """Names of the gateway."""

    def __init__(self, manager: ServerManager) -> None:
        self._manager = manager
        self._names: frozenset[str] = frozenset()
        self._read_at = float("-inf")
        self._since = int(time.time())

    def find(self, asked: str) -> str:
        """The catalogue's name (or that of an attached server) for what a request calls its model.

        A name of the catalogue comes first, then names that servers answer to: those that are up, then what the
        models' files say. Raises ``UnknownModel``.
        """
        live = {name: server.status for name, server in self._manager.live().items()}
        if asked in live:
            return asked
        if asked not in self._known() and (name := _answering(asked, live)):
            return name
        self._read_at = float("-inf")
        names = self._known()
        if asked in names:
            return asked
        for spec in self._manager.catalogue.specs():
            if asked in _served_names(spec):
                return spec.name
        try:
            self._manager.catalogue.get(asked)  # raises the mistake of a file that cannot be read
        except UnknownModel:
            known = ", ".join(self._manager.names())
            raise UnknownModel(f"There is no model {asked!r}.", f"Known: {known}.", name=asked) from None
        return asked

    def the_only_one(self) -> str | None:
        """The server that a request without a ``model`` can only mean: the one that can be asked; else ``None``."""
        up = [name for name, server in self._manager.live().items() if server.status.can_be_asked]
        return up[0] if len(up) == 1 else None

    def cards(self, *, for_operator: bool) -> list[dict[str, Any]]:
        """Every model as an entry of ``/v1/models``, those that are up first: some clients take the first they see."""
        statuses = self._manager.statuses()
        order = sorted(
            statuses, key=lambda name: _rank(statuses[name].state)
        )  # a stable order: within a rank that of the catalogue
        return [self._card(statuses[name], for_operator=for_operator) for name in order]

    def card(self, asked: str, *, for_operator: bool) -> dict[str, Any]:
        """One of them, under the name that was asked for. Raises ``UnknownModel``."""
        status = self._manager.server(self.find(asked)).status
        return self._card(status, for_operator=for_operator) | {"id": asked}

    def _card(self, status: ServerStatus, *, for_operator: bool) -> dict[str, Any]:
        try:
            spec = None if status.attached else self._manager.catalogue.get(status.name)
        except ServerManagerError:  # it runs, but its file is gone or cannot be read
            spec = None
        served = status.served_model_name or (spec.served_model_name if spec and for_operator else None)
        length = status.max_model_len or (_int(spec.options.get("max-model-len")) if spec else None)
        return {
            "id": status.name,
            "object": "model",
            "created": int(status.ready_at or self._since),
            "owned_by": "vllm-deck",
            # As vLLM has it: what to take the tokenizer from. Paths of this machine are for operators.
            "root": spec.model if spec and for_operator else status.name,
            "parent": None,
            "max_model_len": length,
            "state": str(status.state),
            "served_model_name": served,
        }

    def _known(self) -> frozenset[str]:
        if time.monotonic() - self._read_at > _FRESH_S:
            self._names = frozenset(self._manager.names())
            self._read_at = time.monotonic()
        return self._names


def name_to_send(asked: str | None, status: ServerStatus) -> str | None:
    """What the server must read as ``model`` in place of ``asked``; ``None`` where it knows that name itself."""
    if asked is None or asked in status.served_model_names:
        return None
    return status.served_model_name


def _rank(state: ServerState) -> int:
    return _AWAKE_FIRST.index(state) if state in _AWAKE_FIRST else len(_AWAKE_FIRST)


def _answering(asked: str, statuses: Mapping[str, ServerStatus]) -> str | None:
    """The server that answers to a name; of several one that is ready."""
    found = [status for status in statuses.values() if asked in status.served_model_names]
    return min(found, key=lambda status: _rank(status.state)).name if found else None


def _served_names(spec: ModelSpec) -> set[str]:
    """What the server of a model will answer to, by its file: served names and adapters."""
    names = spec.options.get("served-model-name")
    served = {str(name) for name in names} if isinstance(names, list) else {spec.served_model_name}
    adapters = spec.options.get("lora-modules")
    for adapter in adapters if isinstance(adapters, list) else [adapters]:
        served |= _adapter_names(adapter)
    return served | {spec.model}


def _adapter_names(adapter: object) -> set[str]:
    """``NAME=PATH``, or a mapping with ``name``, perhaps as JSON."""
    if isinstance(adapter, str) and adapter.startswith(("{", "[")):
        try:
            adapter = msgspec.json.decode(adapter)
        except msgspec.DecodeError:
            return set()
    if isinstance(adapter, list):
        return set().union(*map(_adapter_names, adapter))
    if isinstance(adapter, Mapping):
        return {str(adapter["name"])} if "name" in adapter else set()
    return {adapter.partition("=")[0]} if isinstance(adapter, str) else set()


def _int(value: object) -> int | None:
    return value if isinstance(value, int) else None
