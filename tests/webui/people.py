"""Who may use the app with login, and how they log in."""

from __future__ import annotations

import httpx

OPERATOR = ("olga", "correct horse")
USER = ("ulf", "battery staple")


def log_in(browser: httpx.Client, who: tuple[str, str], **headers: str) -> httpx.Response:
    return browser.post("/login", data={"name": who[0], "password": who[1]}, headers=headers)
