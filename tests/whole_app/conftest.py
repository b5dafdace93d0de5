"""The app as a process of its own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deck_app import DeckApp, Place

Run = Callable[..., DeckApp]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    found.add_model("quick")
    found.add_model("slow", tokens_per_second=5, answer_tokens=500)
    found.add_model("late", ready_after=60)
    yield found
    found.close()


@pytest.fixture
def run(place: Place) -> Iterator[Run]:
    """Starts the app and waits until it is up; ended after the test."""
    begun: list[DeckApp] = []

    def run(*arguments: str, start: bool = False, up: bool = True) -> DeckApp:
        found = DeckApp(place, *arguments, start=start)
        begun.append(found)
        return found.wait_until_up() if up else found

    yield run
    for app in begun:
        app.close()
