"""The real page in Chromium, over the real app and a fake vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """Opens the page of an app, as a new person would: ``open_page(app, model="quick", locale="zh-CN")``.

    When the test is over none of them may have asked another host for anything, or written an error to the console,
    except for what the test has put into ``page.expected_errors``.
    """
    pages: list[DeckPage] = []

    def open_page(app: DeckApp, **options: object) -> DeckPage:
        page = DeckPage.open(browser, app.url, **options)  # type: ignore[arg-type]
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    for page in pages:
        assert not page.outside_requests, f"asked other hosts: {page.outside_requests}"
        assert not page.unexpected_errors(), f"errors in the console: {page.unexpected_errors()}"


@pytest.fixture
def page(app: DeckApp, open_page: OpenPage) -> DeckPage:
    """The page with the model ``quick`` ready, which says back what it is told."""
    app.start("quick")
    return open_page(app, model="quick")
