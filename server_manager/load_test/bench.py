"""What a load test works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from server_manager.launchers.base import Launcher
from server_manager.load_test.store import RunStore
from server_manager.manager import ServerManager
from server_manager.secret_mask import SecretMask
from server_manager.telemetry.base import Reading


class Readings(Protocol):
    """The sampler."""

    @property
    def latest(self) -> Reading | None: ...
    async def fresh_reading(self) -> Reading: ...


@dataclass(frozen=True, slots=True)
class Bench:
    """Made once; every part of a run is handed it."""

    manager: ServerManager
    launcher: Launcher
    readings: Readings
    store: RunStore
    gpu_bytes: Callable[[str], int | None]
    """What a server holds on all GPUs now, as well as anybody can tell."""
    mask: Callable[[], SecretMask]
    """Knows the secrets of this moment."""
    markers: set[str]
    """Of the generators that are running now."""
