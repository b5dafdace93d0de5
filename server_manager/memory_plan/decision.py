"""What the planner answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server_manager.memory_plan.need import MemoryNeed
from server_manager.memory_plan.release import Action, Sleep, Stop, WaitFor


@dataclass(frozen=True, slots=True)
class Decision:
    """A start or a wake that is possible, and what has to be done before it.

    After its actions were done the decision is made anew, from a fresh reading: only what came free in fact counts.
    When nothing is to be done any more, ``options_to_add`` and ``env_to_add`` are those to start with.
    """

    actions: tuple[Action, ...] = ()
    """In this order. Either only waiting, or (also waiting for memory that is coming free anyhow) sleeps and stops."""
    device_keys: tuple[str, ...] = ()
    """``Device.key`` of those that it will run on; empty where vLLM is left to choose."""
    device_uuids: tuple[str, ...] = ()
    """The same as UUIDs; empty where there are none."""
    options_to_add: Mapping[str, object] = field(default_factory=dict)
    """Flags of ``vllm serve`` that the user left open."""
    env_to_add: Mapping[str, str] = field(default_factory=dict)
    need: MemoryNeed | None = None
    """What was planned with; ``None`` for a wake, and where nothing could be planned."""
    will_hold: Mapping[str, int] = field(default_factory=dict)
    """What the server will hold, by ``Device.key``: that much is not free for others from now on."""
    budget_bytes: int = 0
    """What vLLM divides up by itself on a device (its utilization of the total); 0 with a cache of fixed size."""
    is_doubtful: bool = False
    """Whether it may turn out too large after all: nothing more can be freed, and no earlier start has shown it."""
    words: str = ""
    """One plain sentence."""

    @property
    def waits(self) -> bool:
        """Whether somebody has to be waited for first."""
        return any(isinstance(action, WaitFor) for action in self.actions)

    @property
    def sleeps(self) -> tuple[Sleep, ...]:
        return tuple(action for action in self.actions if isinstance(action, Sleep))

    @property
    def stops(self) -> tuple[Stop, ...]:
        return tuple(action for action in self.actions if isinstance(action, Stop))
