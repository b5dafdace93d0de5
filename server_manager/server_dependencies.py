"""What all servers of a manager share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server_manager.client import ClientSession
from server_manager.handle_store import HandleStore
from server_manager.launchers.base import Launcher
from server_manager.server_state import ServerExit
from server_manager.settings import Settings
from server_manager.stop_receipt import Readings


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What all servers of a manager share."""

    settings: Settings
    launcher: Launcher
    store: HandleStore
    session: ClientSession
    readings: Readings
    masked: Callable[[ServerExit], ServerExit] = lambda end: end  # what is read from a log may hold secrets
