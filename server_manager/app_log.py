"""The app's own log: everything into a file of the state folder, warnings and errors on the console too."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from server_manager.errors import StateDirError

_BYTES = 2 * 2**20
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to(state_dir: Path) -> None:
    """Begins to log. Raises ``StateDirError`` where the file cannot be written."""
    console = logging.StreamHandler()
    console.setLevel(logging.WARNING)
    try:
        (state_dir / "app.log").touch(mode=0o600)
        file = RotatingFileHandler(state_dir / "app.log", maxBytes=_BYTES, backupCount=1, encoding="utf-8")
    except OSError as error:
        raise StateDirError(
            f"{state_dir / 'app.log'} cannot be written: {error.strerror}.",
            "Make it yours, or choose another folder with --state-dir.",
            path=state_dir,
            errno=error.errno,
        ) from error
    # A disk that is full later must not bring a traceback for each line that cannot be written.
    logging.raiseExceptions = False
    logging.basicConfig(level=logging.INFO, format=_FORMAT, handlers=[console, file])
