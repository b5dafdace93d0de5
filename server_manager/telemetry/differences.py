"""What each server holds on a GPU whose processes cannot be seen, from how the device's own figure moves.

In a container without the host's pids (NVIDIA/nvidia-docker#179) the driver names no process of ours. But memory moves
in steps when a server starts, sleeps, wakes and stops, and those we know: a step is put down to the server that is in
motion. An estimate: what somebody else takes in the same moments is taken for ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from server_manager.server_state import ServerState, ServerStatus
from server_manager.telemetry.base import DeviceSnapshot

SETTLING_SECONDS = 5.0
"""How long after a change of state the memory may still move: a wake is seen by readings after it."""
FALLING_ASLEEP_SECONDS = 30.0
"""The first sleep of a large model takes 16 s: it pins memory of the host."""


class DifferenceTracker:
    """Takes every reading, so that the figure before a start is known when it is needed."""

    def __init__(self, since: float) -> None:
        """``since``: Unix time in seconds; a server that was started before is not known."""
        self._since = since
        self._used: dict[int, int] = {}
        self._held: dict[str, dict[int, int]] = {}
        self._lives: dict[str, float] = {}

    def held(self, name: str) -> Mapping[int, int] | None:
        """Bytes by device index; ``None`` for a server whose start was not seen (adopted)."""
        return self._held.get(name)

    def take(self, devices: Sequence[DeviceSnapshot], statuses: Iterable[ServerStatus], now: float) -> None:
        """``now`` is Unix time in seconds, as in the statuses."""
        known = {status.name: status for status in statuses if not status.attached}
        for name, status in known.items():
            began = status.started_at or 0.0
            if began >= self._since and began != self._lives.get(name):  # a new life begins with nothing
                self._lives[name], self._held[name] = began, {}
        for name in [name for name in self._held if not _lives(known.get(name))]:
            del self._held[name]
        moving = [self._held[name] for name, status in known.items() if name in self._held and _moves(status, now)]
        for device in devices:
            if device.memory_used_bytes is None:
                continue
            before = self._used.get(device.index)
            self._used[device.index] = device.memory_used_bytes
            if before is not None and moving:
                _share(device.index, device.memory_used_bytes - before, moving)


def _lives(status: ServerStatus | None) -> bool:
    return status is not None and status.state not in (ServerState.STOPPED, ServerState.FAILED)


def _moves(status: ServerStatus, now: float) -> bool:
    match status.state:
        case ServerState.STARTING | ServerState.STOPPING:
            return True
        case ServerState.ASLEEP:
            return now - status.since < FALLING_ASLEEP_SECONDS
        case ServerState.READY:
            return now - status.since < SETTLING_SECONDS
        case _:
            return False


def _share(index: int, step_bytes: int, moving: Sequence[dict[int, int]]) -> None:
    """Evenly among those in motion: where two start at once nobody can tell them apart."""
    if step_bytes < 0:
        moving = [held for held in moving if held.get(index, 0) > 0]
    for position, held in enumerate(moving):
        part = step_bytes // (len(moving) - position)
        step_bytes -= part
        held[index] = max(0, held.get(index, 0) + part)
