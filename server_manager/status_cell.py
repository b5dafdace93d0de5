"""A server's status with one writer and any number of readers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from server_manager.client import ServedModel
from server_manager.phrases import phrases_of
from server_manager.server_state import LEGAL, ServerState, ServerStatus

log = logging.getLogger(__name__)


class StatusCell:
    """Holds the latest ``ServerStatus``. Only the task that owns the server's life writes to it."""

    def __init__(self, status: ServerStatus) -> None:
        self.value = status
        self._changed = asyncio.Event()

    def transition(self, state: ServerState, **fields: Any) -> None:
        """The only way from one state to another. Raises ``AssertionError`` for a step that ``LEGAL`` does not have."""
        before = self.value.state
        if state not in LEGAL[before]:
            raise AssertionError(f"{self.value.name}: {before} -> {state} is not a legal transition")
        log.info("%s: %s -> %s", self.value.name, before, state)
        self.update(state=state, since=time.time(), **fields)

    def update(self, **fields: Any) -> None:
        """Changes other fields than the state and wakes those who wait. A detail brings its phrases along."""
        if (detail := fields.get("detail")) is not None:
            fields |= {"detail": str(detail), "detail_phrases": phrases_of(detail)}
        self.value = replace(self.value, **fields)
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_until(
        self, condition: Callable[[ServerStatus], bool], *, unless_done: asyncio.Task[Any] | None = None
    ) -> None:
        """Returns once the condition holds, or once ``unless_done`` has ended."""
        while not condition(self.value) and not (unless_done is not None and unless_done.done()):
            change = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait(
                    {change} if unless_done is None else {change, unless_done}, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                change.cancel()


def served_fields(models: Sequence[ServedModel]) -> dict[str, Any]:
    """What a status takes from the server's ``/v1/models``."""
    first = models[0] if models else None
    return {
        "served_model_name": first.id if first else None,
        "served_model_names": tuple(model.id for model in models),
        "max_model_len": first.max_model_len if first else None,
    }
