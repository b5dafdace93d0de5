"""What waits for a thread, done together once the thread comes to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class Batches(Generic[T]):
    """Gathers items as long as the thread is busy with something else, so that many cost it little more than one."""

    def __init__(self, submit: Callable[[Callable[[], None]], Future[None]], work: Callable[[list[T]], None]) -> None:
        """``submit`` has something done in the thread, in the order of the calls; ``work`` is done there."""
        self._submit = submit
        self._work = work
        self._lock = threading.Lock()
        self._items: list[T] | None = None
        """Those of the batch that can still grow."""
        self._done: Future[None] = Future()

    def add(self, item: T) -> Future[None]:
        """The future of all that is done together with it."""
        with self._lock:
            if self._items is None:
                items = [item]
                self._done = self._submit(partial(self._take, items))
                self._items = items
            else:
                self._items.append(item)
            return self._done

    def close(self) -> None:
        """What is added from now on is done after whatever is submitted next."""
        with self._lock:
            self._items = None

    def _take(self, items: list[T]) -> None:
        with self._lock:
            if self._items is items:
                self._items = None
        self._work(items)
