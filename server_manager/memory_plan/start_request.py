"""From a model's spec to the planner's question: its files, its flags, its places and what was learned of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from server_manager.memory_plan.chosen import chosen_flags
from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.history import MemoryHistory, memory_subject
from server_manager.memory_plan.need import Learned, memory_needs
from server_manager.memory_plan.places import places_for
from server_manager.memory_plan.planner import StartRequest
from server_manager.memory_plan.spec_shape import files_shape
from server_manager.memory_plan.world import Device, World
from server_manager.start_subject import StartSubject


@dataclass(frozen=True, slots=True)
class Launching:
    """A model as it shall be started."""

    name: str
    """Of the server."""
    model: str
    """Hub id, or where its files are."""
    options: Mapping[str, object]
    """Flags of ``vllm serve`` with those that we always add, without those of a decision."""
    env: Mapping[str, str]
    """The model's own variables."""
    vllm_python: str
    """Whose vLLM will run: another version may need other memory."""


def start_request(
    launching: Launching,
    world: World,
    history: MemoryHistory,
    *,
    can_sleep: bool,
    inherited: Mapping[str, str] = os.environ,
    hub_size: Callable[[str], int | None] | None = None,
) -> StartRequest:
    """What ``decide_start`` is asked. Reads the model's files and the history: some 20 ms, call it in a thread.

    It carries what is free on the devices of this world, so each reading needs a request of its own.
    ``hub_size`` may make a request to the hub.
    """
    flags = chosen_flags(launching.options)
    places = places_for(world.devices, launching.options, launching.env, inherited)
    if places is None:
        return StartRequest(launching.name, (), flags, None, can_sleep)
    shape = files_shape(launching.model, launching.options, launching.env, hub_size)

    def learn(tensor_parallel_size: int) -> Learned:
        return history.learned(_subject(launching, places.devices, tensor_parallel_size))

    return StartRequest(
        launching.name, memory_needs(shape, flags, places.devices, learn), flags, places, can_sleep=can_sleep
    )


def subject_of(launching: Launching, world: World, decision: Decision) -> StartSubject:
    """Under what the history keeps what is measured of a server that was started by this decision. Blocking."""
    devices = tuple(device for device in world.devices if device.key in decision.device_keys) or world.devices
    return _subject(launching, devices, decision.need.tensor_parallel_size if decision.need else 1)


def _subject(launching: Launching, devices: tuple[Device, ...], tensor_parallel_size: int) -> StartSubject:
    on_gpu = bool(devices) and not devices[0].on_host
    return memory_subject(
        launching.model,
        launching.options,
        launching.env,
        gpu_name=(devices[0].name or "GPU") if on_gpu else None,
        tensor_parallel_size=tensor_parallel_size,
        vllm_python=launching.vllm_python,
    )
