"""On which GPUs a model may go: the user's choice, if there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server_manager.memory_plan.world import Device

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Places:
    """The devices that may be used, in the order in which vLLM will see them."""

    devices: tuple[Device, ...]
    is_fixed: bool = False
    """Whether the model's own file names them: then nothing is chosen, and vLLM takes the first of them."""


def places_for(
    devices: tuple[Device, ...],
    options: Mapping[str, object],
    env: Mapping[str, str],
    inherited: Mapping[str, str],
) -> Places | None:
    """What ``device-ids`` and ``CUDA_VISIBLE_DEVICES`` leave of the devices; ``None`` where that cannot be told.

    ``env`` is the model's own, ``inherited`` the app's. What the app inherits limits the choice, what the model's file
    says is the choice. ``device-ids`` counts within the visible ones (vLLM's ``_resolve_device_ids``).
    """
    if devices and devices[0].on_host:
        return Places(devices)
    visible = env.get(VISIBLE, inherited.get(VISIBLE, ""))
    order = env.get("CUDA_DEVICE_ORDER", inherited.get("CUDA_DEVICE_ORDER", ""))
    pool: tuple[Device, ...] | None = devices
    if VISIBLE in env or VISIBLE in inherited:
        pool = _named(devices, visible.split(","), order)
    ids = options.get("device-ids")
    if pool is None or ids is None:
        return None if pool is None else Places(pool, is_fixed=VISIBLE in env)
    names = [str(each) for each in ids] if isinstance(ids, list | tuple) else str(ids).replace(",", " ").split()
    if all(name.isdecimal() for name in names) and pool is not devices:
        chosen = [pool[int(name)] for name in names if int(name) < len(pool)]
        found = tuple(chosen) if len(chosen) == len(names) else None
    else:
        found = _named(devices, names, order)
    return None if not found else Places(found, is_fixed=True)


def _named(devices: tuple[Device, ...], names: list[str], order: str) -> tuple[Device, ...] | None:
    """``None`` for a part of a GPU (MIG), a GPU without figures, and numbers that CUDA may count differently from NVML.

    CUDA counts the fastest first unless it is told otherwise; among equal GPUs that is the order of NVML.
    """
    found: list[Device] = []
    for name in (name.strip() for name in names):
        if name.isdecimal():
            if order != "PCI_BUS_ID" and len({device.name for device in devices}) > 1:
                return None
            match = [device for device in devices if device.index == int(name)]
        else:  # the beginning of a UUID is enough
            match = [device for device in devices if name.startswith("GPU-") and device.key.startswith(name)]
        if len(match) != 1 or match[0] in found:
            return None
        found += match
    return tuple(found) or None
