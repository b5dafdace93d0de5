"""Who uses which server, who waits for it, and which servers are about to be put away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Use:
    """One request's hold on a server: from the wish until it is done."""

    __slots__ = ("granted",)

    def __init__(self) -> None:
        self.granted = False


class Uses:
    """Of all servers, by name. Methods belong to the event loop."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._waiting: dict[str, set[Use]] = {}
        self._granted: dict[str, set[Use]] = {}
        self._last_used: dict[str, float] = {}
        self._claims: dict[str, str] = {}
        self._on_change = on_change

    # Users

    @contextmanager
    def wish(self, name: str) -> Iterator[Use]:
        """A hold that is not granted yet; it ends with the block, granted or not."""
        use = Use()
        self._waiting.setdefault(name, set()).add(use)
        try:
            yield use
        finally:
            self._waiting[name].discard(use)
            if use.granted:
                self._granted[name].discard(use)
                self._last_used[name] = time.time()
            self._on_change()

    def grant(self, name: str, use: Use) -> None:
        """It may begin."""
        use.granted = True
        self._waiting[name].discard(use)
        self._granted.setdefault(name, set()).add(use)
        self._last_used[name] = time.time()

    def grant_all(self, name: str) -> None:
        """All who wait for this server may begin: it has just come up, and nobody may take it away before that."""
        for use in tuple(self._waiting.get(name, ())):
            self.grant(name, use)
        self._last_used[name] = time.time()

    def count(self, name: str) -> int:
        """How many use it now."""
        return len(self._granted.get(name, ()))

    def waiting(self, name: str) -> int:
        """How many wait for it."""
        return len(self._waiting.get(name, ()))

    def last_used(self, name: str) -> float:
        """Unix time in seconds of its last use; 0 where it was never used."""
        return time.time() if self.count(name) else self._last_used.get(name, 0.0)

    # Servers that are about to be put away

    @contextmanager
    def claim(self, name: str, by: str) -> Iterator[None]:
        """New requests for ``name`` wait as long as the block lasts: it makes room for ``by``."""
        self._claims[name] = by
        try:
            yield
        finally:
            self._claims.pop(name, None)
            self._on_change()

    def claimed_by(self, name: str) -> str | None:
        return self._claims.get(name)
