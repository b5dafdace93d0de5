"""How many answers a user may have made at the same time."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from server_manager.errors import TooManyAnswers


class UserLimit:
    """Counts the answers of each user."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def one_more(self, user: str, most: int | None) -> Iterator[None]:
        """Held while an answer is made or waits for its server. Raises ``TooManyAnswers`` beyond ``most``."""
        if most is not None and self._open[user] >= most:
            raise TooManyAnswers(
                f"{most} of your questions are being answered already.",
                "Wait for one of them, or stop it (DECK_CHATS_PER_USER allows more).",
                most=most,
            )
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1
            if not self._open[user]:
                del self._open[user]
