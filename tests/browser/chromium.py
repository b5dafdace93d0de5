"""The browser for the tests that drive the page: those over a fake vLLM, and those over the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Playwright, expect, sync_playwright

from browser.deck_page import PATIENCE
from tools.chromium import find_chromium

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One Chromium for a folder. Not for the session: Playwright's event loop would be in the way of others' tests."""
    with sync_playwright() as playwright:
        found = launch_chromium(playwright)
        yield found
        found.close()


def launch_chromium(playwright: Playwright) -> Browser:
    """Chromium without a window. Where there is none the test is skipped, except in CI, where it fails."""
    expect.set_options(timeout=PATIENCE)
    path = find_chromium()
    if path is None:
        reason = "There is no Chromium: set CHROMIUM to its path."
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
