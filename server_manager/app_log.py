"""The app's own log: everything into a file of the state folder, warnings and errors on the console too."""

from __future__ import annotations

import asyncio
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
    logging.getLogger("uvicorn.error").addFilter(_is_worth_telling)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Not that the connection of an open page was cut at the end: uvicorn reports each with a traceback. Nor that the
    gateway cuts an answer that broke off behind it, of which it tells itself."""
    cut_off = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    message = record.getMessage()
    return not cut_off and "graceful shutdown" not in message and "without completing response" not in message
