"""The app as a process of its own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fake_gpu
import pytest
from deck_app import DeckApp, Place

Run = Callable[..., DeckApp]
Machine = Callable[..., DeckApp]


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

    def run(*arguments: str, start: bool = False, up: bool = True, forked: bool = True) -> DeckApp:
        found = DeckApp(place, *arguments, start=start, forked=forked)
        begun.append(found)
        return found.wait_until_up() if up else found

    yield run
    for app in begun:
        app.close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Starts an app on a machine with GPUs of so many GiB; keyword ``models``: flags and fake settings by name.

    Called again, without GPUs and models, it starts the next app on the same machine.
    """
    place = Place(tmp_path / "place")
    fake_gpu.write_weights(place.weights)
    apps: list[DeckApp] = []

    def start(
        *gib: float,
        models: dict[str, dict[str, object]] | None = None,
        args: tuple[str, ...] = ("--no-start",),
        hide_processes: bool = False,
    ) -> DeckApp:
        for name, settings in (models or {}).items():
            flags = str(settings.pop("flags", ""))
            place.add_model(name, flags, **{"weights_gib": fake_gpu.WEIGHTS_GIB, **settings})
        folder = tmp_path / "gpus"
        env = fake_gpu.make_gpus(folder, *gib, hide_processes=hide_processes) if gib else fake_gpu.environment(folder)
        app = DeckApp(place, *args, env=env).wait_until_up()
        apps.append(app)
        return app

    try:
        yield start
    finally:
        for app in apps:
            app.close()
        place.close()
