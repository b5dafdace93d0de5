"""The states of a server, which transitions are legal, and what everyone may know about a server at a moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from server_manager.diagnosis.report import Diagnosis
from server_manager.memory_parts import MemoryParts
from server_manager.phrases import Phrase
from server_manager.start_meter import StartProgressView
from server_manager.start_phase import StartPhase
from server_manager.stop_receipt import StopReceipt


class ServerState(StrEnum):
    """Where a server is in its life.

        STOPPED ──start──> STARTING ──/health 200──> READY <──wake── ASLEEP
           ^                  │  │                   │  │ ──sleep──>  │
           │                  │  └─ended, stalled─┐  │  └─ended──┐    │
           │                  stop                │  stop        │    stop, ended
           │                  v                   v  v           v    v
           └──all gone──── STOPPING            FAILED <──────────┘  (as from READY)

    ``FAILED`` is "ended without being asked to"; a start is possible from it as from ``STOPPED``.
    """

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    ASLEEP = "asleep"
    STOPPING = "stopping"
    FAILED = "failed"


LEGAL: Mapping[ServerState, frozenset[ServerState]] = MappingProxyType(
    {
        ServerState.STOPPED: frozenset({ServerState.STARTING, ServerState.READY}),  # READY: adopted or attached
        ServerState.STARTING: frozenset({ServerState.READY, ServerState.STOPPING, ServerState.FAILED}),
        ServerState.READY: frozenset({ServerState.ASLEEP, ServerState.STOPPING, ServerState.FAILED}),
        ServerState.ASLEEP: frozenset({ServerState.READY, ServerState.STOPPING, ServerState.FAILED}),
        ServerState.STOPPING: frozenset({ServerState.STOPPED, ServerState.FAILED}),
        ServerState.FAILED: frozenset({ServerState.STARTING, ServerState.READY}),
    }
)

LIVE_STATES = frozenset({ServerState.STARTING, ServerState.READY, ServerState.ASLEEP, ServerState.STOPPING})
"""States in which processes of the server may exist."""


class ExitCause(StrEnum):
    """Why a server is not there any more."""

    STOPPED = "stopped"
    """Somebody asked for it."""
    NOT_LAUNCHED = "not_launched"
    """A check before the start refused, or the process could not be created."""
    FAILED_TO_START = "failed_to_start"
    STALLED = "stalled"
    CRASHED = "crashed"
    """Ended while it served. The returncode says nothing here: vLLM exits with 0 when its engine dies."""
    UNREACHABLE = "unreachable"
    """An attached server that does not answer."""


@dataclass(frozen=True, slots=True)
class ServerExit:
    """How a server ended: what happened, the proof, and what to do."""

    cause: ExitCause
    message: str
    next_step: str = ""
    code: str | None = None
    """Of the error that refused or ended the start (``ServerManagerError.code``)."""
    returncode: int | None = None
    """Of vLLM's API server; negative for a signal, ``None`` where there was no process."""
    seconds: float = 0.0
    """For a stop: from the request to nothing left. Otherwise from the start to the end."""
    receipt: StopReceipt | None = None
    """What memory came back; ``None`` where none was held, or nobody could tell."""
    log_tail: tuple[str, ...] = ()
    diagnosis: Diagnosis | None = None
    """Why it ended unasked: the cause with its proof, and what can be corrected."""


@dataclass(frozen=True, slots=True)
class Restart:
    """A start after a crash, which nobody has to ask for."""

    attempt: int
    """From 1."""
    limit: int
    """How many of them in a row the operator allows."""
    at: float | None
    """When it begins, Unix time in seconds; ``None`` where the last one was of no use and there will be no other."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a server that is to come up waits for."""

    position: int
    """How many others come first; 0: it is its turn, and it waits for servers to make room."""
    behind: tuple[str, ...]
    """Whose turn comes first, or which servers make room."""
    reasons: tuple[str, ...] = ()
    """Why, for each of ``behind``: ``in_use`` (answers that are still going on), ``starting`` or ``ending``; empty:
    it is their turn first."""

    @property
    def words(self) -> str:
        if not self.reasons:
            return f"waiting in line, {self.position} before it ({', '.join(self.behind)})"
        what = {"in_use": "answers of {} to end", "starting": "{} to have started", "ending": "{} to have ended"}
        names = {
            reason: [name for name, why in zip(self.behind, self.reasons, strict=True) if why == reason]
            for reason in dict.fromkeys(self.reasons)
        }
        return "waiting for " + " and ".join(what[reason].format(", ".join(names[reason])) for reason in names)


@dataclass(frozen=True, slots=True)
class SleepView:
    """Of a server that was started with vLLM's sleep mode. Seconds are those of the last time."""

    frees_memory: bool
    """``False`` on a CPU, where the routes answer and nothing moves."""
    level: int = 0
    """0 while it is awake; 1: the weights are in host memory; 2: they must be read from the disk again."""
    first_sleep_s: float | None = None
    """The first of a process pins host memory."""
    sleep_s: float | None = None
    wake_s: float | None = None
    """Until a token proved that it is awake."""

    def with_fields(self, **fields: float) -> SleepView:
        return replace(self, **fields)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server at one moment. Times are Unix times in seconds."""

    name: str
    state: ServerState = ServerState.STOPPED
    since: float = 0.0
    """When it entered this state."""
    started_at: float | None = None
    """When the present (or last) start was asked for."""
    ready_at: float | None = None
    phase: StartPhase | None = None
    detail: str = ""
    """What the phase says besides, for example shards "2/4"."""
    detail_phrases: tuple[Phrase, ...] = ()
    """What that was put together from, of what the memory planner says."""
    progress: StartProgressView | None = None
    """How far a start is and how long it still takes; of a server that is ready, how long each phase took."""
    pid: int | None = None
    port: int | None = None
    base_url: str | None = None
    served_model_name: str | None = None
    """What requests must send as ``model``; known once it is ready."""
    served_model_names: tuple[str, ...] = ()
    """Every name that it answers to, adapters too: ``served_model_name`` is the first."""
    max_model_len: int | None = None
    """Context length in tokens; known once it is ready."""
    command: str = ""
    """The exact line for a shell."""
    attached: bool = False
    kept: bool = False
    """Whether it outlives the app."""
    exit: ServerExit | None = None
    """How the last life ended, until the next one begins."""
    restart: Restart | None = None
    """After a crash: the start that will follow, or, while it starts or serves, the one that did."""
    waiting: Waiting | None = None
    """In the queue of those that are to come up."""
    sleep: SleepView | None = None
    """``None`` where it cannot sleep."""
    memory: MemoryParts | None = None
    """What vLLM's log says that it holds memory for, in this life."""

    @property
    def can_be_asked(self) -> bool:
        """Whether a question needs no start, which not everybody may ask for."""
        return self.attached or self.state in (ServerState.READY, ServerState.ASLEEP)
