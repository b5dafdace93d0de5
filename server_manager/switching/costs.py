"""What picks cost, read from files: the histories, the models' own, and what hubs have told. Blocking, for a thread."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from server_manager.bundled import bundled_models
from server_manager.download_watch import bytes_in
from server_manager.downloads import download_folders
from server_manager.errors import InsufficientMemory
from server_manager.hub_sizes import HubSizes
from server_manager.memory_plan.cost import SwitchCost, room_seconds, switch_cost
from server_manager.memory_plan.history import MemoryHistory
from server_manager.memory_plan.places import places_for
from server_manager.memory_plan.planner import StartRequest, decide_start, decide_wake
from server_manager.memory_plan.spec_shape import spec_shape
from server_manager.memory_plan.start_request import Launching, start_request
from server_manager.memory_plan.world import World
from server_manager.model_spec import ModelSpec, is_local
from server_manager.server_state import ServerState
from server_manager.settings import Settings
from server_manager.start_history import StartHistory
from server_manager.start_subject import StartSubject, start_subject
from server_manager.switching.policy import is_switchable
from server_manager.switching.rooms import SLEEP_LEVELS
from server_manager.telemetry.base import DeviceSnapshot


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to read of."""

    specs: tuple[ModelSpec, ...]
    subjects: Mapping[str, StartSubject]
    devices: tuple[DeviceSnapshot, ...]
    world: World | None
    """``None`` without GPUs: then the one before is stopped, which nobody has measured."""


@dataclass(frozen=True, slots=True)
class Known:
    """What was found in files of one model."""

    spec: ModelSpec
    cold: SwitchCost
    asleep: Mapping[int, SwitchCost] = field(default_factory=dict)
    """By the level of the sleep."""
    request: StartRequest | None = None
    """What the planner is asked before a start; ``None`` where the files are not here, or there is no GPU."""


class CostReader:
    """Reads for all models."""

    def __init__(self, settings: Settings, memory: MemoryHistory, sizes: HubSizes) -> None:
        self._settings = settings
        self._memory = memory
        self._sizes = sizes
        self._starts = StartHistory(settings.start_history_path)

    def changes(self) -> tuple[int, ...]:
        """When the files were written last, and how much hubs have told."""
        found = [self._sizes.version]
        for path in (self._settings.start_history_path, self._settings.memory_history_path):
            try:
                found.append(path.stat().st_mtime_ns)
            except OSError:  # not there yet
                found.append(0)
        return tuple(found)

    def read(self, look: Look) -> dict[str, Known]:
        """By name."""
        python = self._settings.vllm_command[0]
        starts = {
            spec.name: start_subject(
                spec.model, spec.options, spec.vllm_env, devices=look.devices, vllm_python=python
            )
            for spec in look.specs
        }  # fmt: skip
        totals = self._starts.nearest_totals(starts)
        return {spec.name: self._known(spec, look, totals.get(spec.name)) for spec in look.specs}

    def rooms(self, look: Look, known: Mapping[str, Known]) -> dict[str, float | None]:
        """How long others take to make room, in seconds by name: none for one that is missing, ``None``: not known."""
        if look.world is None:
            return {}
        asleep = {server.name for server in look.world.servers if server.state is ServerState.ASLEEP}
        up = {server.name for server in look.world.servers}
        found: dict[str, float | None] = {}
        for name in asleep | known.keys():
            request = known[name].request if name in known else None
            if name in asleep:
                decision = decide_wake(name, look.world)
            elif request is not None and name not in up:
                spec = known[name].spec
                places = places_for(look.world.devices, spec.options, spec.vllm_env, os.environ)
                decision = decide_start(replace(request, places=places), look.world)
            else:
                continue
            # Beside a cold start an unmeasured sleep counts as nothing; beside a wake it would double it.
            unmeasured = None if name in asleep else 0.0
            if not isinstance(decision, InsufficientMemory):
                found[name] = room_seconds(decision.actions, look.subjects, self._memory, unmeasured)
        return found

    def _known(self, spec: ModelSpec, look: Look, cold_start_s: float | None) -> Known:
        subject = look.subjects.get(spec.name)
        # Whether files of a hub's model are still to come.
        missing = (
            not is_local(spec.model)
            and spec.model not in bundled_models()
            and spec_shape(spec).is_complete is not True
        )  # fmt: skip
        history = self._memory if subject else None
        cold = switch_cost(
            ServerState.STOPPED,
            subject=subject,
            history=history,
            cold_start_s=cold_start_s,
            needs_download=missing,
            missing_bytes=self._missing_bytes(spec) if missing else None,
        )
        asleep = {
            level: switch_cost(ServerState.ASLEEP, subject=subject, history=history, sleep_level=level)
            for level in (SLEEP_LEVELS if subject else ())
        }
        request = None
        if look.world is not None and not missing:
            launching = Launching(
                spec.name, spec.model, spec.options, spec.vllm_env, self._settings.vllm_command[0]
            )  # fmt: skip
            request = start_request(launching, look.world, self._memory, can_sleep=is_switchable(spec))
        return Known(spec, cold, asleep, request)

    def _missing_bytes(self, spec: ModelSpec) -> int | None:
        if (size := self._sizes.known(spec)) is None:
            return None
        folder = spec.options.get("download-dir")
        folders = download_folders(
            spec.model, download_dir=None if folder is None else str(folder), env=spec.vllm_env
        )  # fmt: skip
        return max(0, size.download_bytes - bytes_in(folders)) or None
