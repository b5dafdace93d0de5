"""Prints the path of a Chromium for the browser tests; where there is none, installs one first.

Everything but the path goes to stderr, so that ``CHROMIUM=$(python tools/chromium.py)`` works.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HEADLESS_SHELL = "chromium-headless-shell"
"""Chromium without the browser around the page: a page costs a third of the processor time to open."""
NAMES = (HEADLESS_SHELL, "chromium", "google-chrome", "chromium-browser")


def find_chromium(environ: Mapping[str, str] = os.environ) -> str | None:
    """``$CHROMIUM``, else the first on the PATH, else the one that Playwright keeps."""
    if (chosen := environ.get("CHROMIUM")) and (path := shutil.which(chosen, path=environ.get("PATH"))):
        return path
    for name in NAMES:
        if path := shutil.which(name, path=environ.get("PATH")):
            return path
    cache = Path(environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache/ms-playwright")
    kept = [
        *sorted(cache.glob("chromium-*/chrome-linux*/chrome")),
        *sorted(cache.glob("chromium_headless_shell-*/chrome-*linux*/*headless?shell")),
    ]
    return str(kept[-1]) if kept else None


def _run(command: Sequence[str]) -> bool:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return (
        subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), check=False).returncode
        == 0
    )


def _install_with_apt() -> bool:
    """On Debian and Ubuntu, as root or where sudo asks for no password. The font is for the Chinese page."""
    if not shutil.which("apt-get"):
        return False
    sudo: list[str] = []
    if os.geteuid() != 0:
        if not (shutil.which("sudo") and _run(["sudo", "-n", "true"])):
            return False
        sudo = ["sudo", "-n"]
    print("-- Installing Chromium with apt (for the browser tests)", file=sys.stderr, flush=True)
    install = [*sudo, "apt-get", "install", "-q", "-y", "--no-install-recommends", "fonts-noto-cjk"]
    return _run([*sudo, "apt-get", "-q", "update"]) and any(_run([*install, name]) for name in NAMES[:2])


def _install_with_playwright() -> bool:
    print("-- Downloading Chromium with Playwright (for the browser tests)", file=sys.stderr, flush=True)
    return _run([sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"])


def main() -> int:
    path = find_chromium()
    for install in (_install_with_apt, _install_with_playwright):
        if path is None and install():
            path = find_chromium()
    if path is None:
        print(
            "The browser tests need Chromium or Chrome. Install one, or name it: make test CHROMIUM=/path/to/chrome",
            file=sys.stderr,
        )
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
