"""The real page in Chromium, over the real app and a fake vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from deck_app import DeckApp, Place
from kept_load_tests import keep
from playwright.sync_api import Browser

from browser.chromium import browser
from browser.deck_page import DeckPage

__all__ = ["OpenPage", "browser"]


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The app's folders. A test adds the models that it needs; the app notices."""
    found = Place(tmp_path_factory.mktemp("deck"))
    yield found
    found.close()


@pytest.fixture(scope="package")
def shared_app(place: Place) -> Iterator[DeckApp]:
    """One app for all tests of this folder, without a model that starts by itself, with some load tests of before."""
    place.add_model("quick", "max-model-len: 4096\n", parrot=1)
    keep(place.state_dir)
    found = DeckApp(place).wait_until_up()
    yield found
    found.close()


@pytest.fixture
def app(shared_app: DeckApp) -> Iterator[DeckApp]:
    """The same; after the test every server is stopped but ``quick``, which most tests use."""
    yield shared_app
    for server in shared_app.get("/api/snapshot")["servers"]:
        if server["name"] != "quick" and server["state"] not in ("stopped", "failed") and not server["attached"]:
            shared_app.post(f"/api/servers/{server['name']}/stop")


OpenPage = Callable[..., DeckPage]
Parked = dict[tuple[object, ...], DeckPage]


@pytest.fixture(scope="package")
def parked(browser: Browser) -> Iterator[Parked]:
    """Pages that tests are done with, by app and kind. Loading the page into one of them takes half of what it takes
    to load it into a new one, whose browser has fetched and compiled nothing yet."""
    found: Parked = {}
    yield found
    for page in found.values():
        page.close()


@pytest.fixture
def open_page(browser: Browser, parked: Parked) -> Iterator[OpenPage]:
    """Opens the page of an app, as a new person would: ``open_page(app, model="quick", locale="zh-CN")``.

    The browser may be one that another test is done with: nothing is left of what it had kept. A test that changes the
    browser itself, or wants to see everything fetched, says ``own=True``; a ``context`` is its own too.

    When the test is over none of them may have asked another host for anything, or written an error to the console,
    except for what the test has put into ``page.expected_errors``.
    """
    pages: list[tuple[DeckPage, tuple[object, ...] | None]] = []

    def open_page(app: DeckApp, *, model: str | None = None, own: bool = False, **options: Any) -> DeckPage:
        kind = None if own or "context" in options else (app.url, *sorted(options.items()))
        if kind in parked:
            page = parked.pop(kind)
            pages.append((page, kind))
            page.begin_anew(model)
        else:
            page = DeckPage.open(browser, app.url, model=model, **options)
            pages.append((page, kind))
        return page

    yield open_page
    for page, kind in pages:
        if kind is None or kind in parked or page.context.pages != [page.page]:
            page.close()
        else:
            page.park()
            parked[kind] = page
    for page, _ in pages:
        assert not page.outside_requests, f"asked other hosts: {page.outside_requests}"
        assert not page.unexpected_errors(), f"errors in the console: {page.unexpected_errors()}"


@pytest.fixture
def page(app: DeckApp, open_page: OpenPage) -> DeckPage:
    """The page with the model ``quick`` ready, which says back what it is told."""
    app.start("quick")
    return open_page(app, model="quick")
