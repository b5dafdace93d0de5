"""What a pick in the list of models costs, as data: the page has the words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from server_manager.memory_plan.history import MemoryHistory
from server_manager.memory_plan.measured import Measure
from server_manager.memory_plan.release import Action, Sleep, Stop
from server_manager.server_state import ServerState
from server_manager.start_subject import StartSubject


class CostKind(StrEnum):
    """What has to happen before the first word of an answer, least first."""

    READY = "ready"
    ASLEEP = "asleep"
    STARTING = "starting"
    COLD = "cold"
    DOWNLOAD = "download"


@dataclass(frozen=True, slots=True)
class SwitchCost:
    """What one pick costs."""

    kind: CostKind
    seconds: float | None
    """``None`` where this machine has not measured it; without a download, of which nobody knows how long it takes."""
    download_bytes: int | None = None
    """What is still to be downloaded; ``None`` where that is not known, or nothing is."""


def switch_cost(
    state: ServerState,
    *,
    subject: StartSubject | None = None,
    history: MemoryHistory | None = None,
    sleep_level: int = 1,
    cold_start_s: float | None = None,
    start_left_s: float | None = None,
    missing_bytes: int | None = None,
    needs_download: bool = False,
    making_room_s: float | None = 0.0,
) -> SwitchCost:
    """What it costs to go to a server in this state.

    ``cold_start_s`` is the start history's estimate, ``start_left_s`` what is left of a start that is on;
    ``making_room_s`` is what others take to sleep or stop first (``room_seconds``). Blocking where ``history`` is
    given: it reads a file.
    """
    if state is ServerState.READY:
        return SwitchCost(CostKind.READY, 0.0)
    if state is ServerState.ASLEEP:
        return SwitchCost(CostKind.ASLEEP, _sum(_wake_s(subject, history, sleep_level), making_room_s))
    if state is ServerState.STARTING:
        return SwitchCost(CostKind.STARTING, start_left_s)
    if cold_start_s is None and history is not None and subject is not None:
        cold_start_s = history.typical(subject, Measure.COLD_START_S)
    kind = CostKind.DOWNLOAD if needs_download else CostKind.COLD
    return SwitchCost(kind, _sum(cold_start_s, making_room_s), missing_bytes if needs_download else None)


def room_seconds(
    actions: Sequence[Action],
    subjects: Mapping[str, StartSubject],
    history: MemoryHistory,
    unmeasured: float | None = None,
) -> float | None:
    """How long what others have to do takes, one after the other; ``None`` where that is not known.

    Of sleeps the later ones count, not the slow first one, which is done right after a start; one that was never
    measured takes about as long as the wake (0.33 s and 0.40 s for a 7B on an H100). Nobody knows how long a wait
    takes. ``unmeasured`` counts for what was never measured. Blocking: it reads a file.
    """
    total: float | None = 0.0
    for action in actions:
        if not isinstance(action, Sleep | Stop):
            return None
        subject = subjects.get(action.name)
        wanted = (Measure.STOP_S,) if isinstance(action, Stop) else (Measure.LATER_SLEEP_S, Measure.WAKE_S)
        found = (history.typical(subject, measure) for measure in wanted) if subject else ()
        total = _sum(total, next((seconds for seconds in found if seconds is not None), unmeasured))
    return total


def _wake_s(subject: StartSubject | None, history: MemoryHistory | None, level: int) -> float | None:
    """To the first word if that was measured, else to being awake."""
    if subject is None or history is None:
        return None
    if level == 2:
        return history.typical(subject, Measure.RELOAD_S)
    first = history.typical(subject, Measure.FIRST_TOKEN_S)
    return first if first is not None else history.typical(subject, Measure.WAKE_S)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
