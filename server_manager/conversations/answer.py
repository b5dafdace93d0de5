"""The answer that is being made, kept from its first text on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from server_manager.conversations.tree import Draft
from server_manager.conversations.turn import Figures

log = logging.getLogger(__name__)

_SAVE_SECONDS = 2.0
"""Between two savings of an answer: as much as a crash of the app may cost."""
_PATIENCE = 2.0
"""How long the end of an answer waits for its saving: a slow disk must not hold it up."""


class KeptAnswer:
    """Gathers the text of one answer and saves it now and then. On the event loop; nothing in it waits for the disk.

    What is left at the end of the app, or of the patience of who asked, is saved all the same: the thread that writes
    goes on until it is through.
    """

    def __init__(self, draft: Draft, save: Callable[[Draft], Future[None]]) -> None:
        self._draft = draft
        self._save_draft = save
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._saving: Future[None] | None = None
        self._saved_at = float("-inf")

    @property
    def turn(self) -> str:
        """Its id."""
        return self._draft.turn.id

    @property
    def parent(self) -> str | None:
        return self._draft.turn.parent

    @property
    def saving(self) -> Future[None] | None:
        """The last saving, if it is not over."""
        return self._saving if self._saving and not self._saving.done() else None

    @property
    def text(self) -> tuple[str, str]:
        """Content and reasoning so far."""
        self._content[:] = ["".join(self._content)]
        self._reasoning[:] = ["".join(self._reasoning)]
        return self._content[0], self._reasoning[0]

    def add(self, content: str, reasoning: str) -> None:
        """More text."""
        self._content.append(content)
        self._reasoning.append(reasoning)

    def recast(self) -> None:
        """All content so far turns out to have been reasoning."""
        self._reasoning.extend(self._content)
        self._content.clear()

    def keep_up(self) -> None:
        """Saves what there is, if that is due. To be called when the text has been passed on: saving comes second."""
        now = time.monotonic()
        if now - self._saved_at >= _SAVE_SECONDS and self.saving is None and any(self.text):
            self._saved_at = now
            self._save(unfinished=True)

    async def finish(self, figures: Figures) -> None:
        """The answer is whole. Returns when it is saved, or after some patience."""
        self.close("", figures)
        if saving := self.saving:  # asked once: it may end at any moment
            await asyncio.wait({asyncio.wrap_future(saving)}, timeout=_PATIENCE)

    def close(self, note: str, figures: Figures | None = None) -> None:
        """The answer is over, for the reason that ``note`` says. Without any text of it nothing is kept."""
        self._draft = replace(self._draft, turn=replace(self._draft.turn, note=note, figures=figures or Figures()))
        if any(self.text):
            self._save(unfinished=False)

    def _save(self, *, unfinished: bool) -> None:
        content, reasoning = self.text
        turn = replace(self._draft.turn, assistant=content, reasoning=reasoning)
        try:
            self._saving = self._save_draft(replace(self._draft, turn=turn, unfinished=unfinished))
            self._saving.add_done_callback(_report)
        except RuntimeError as error:  # the app has ended meanwhile, and with it the thread that writes
            log.error("An answer could not be kept: %s", error)


def _report(saving: Future[None]) -> None:
    """A saving that fails is our own mistake: what may go wrong with a disk was dealt with."""
    if not saving.cancelled() and (error := saving.exception()):
        log.error("An answer could not be kept", exc_info=error)
