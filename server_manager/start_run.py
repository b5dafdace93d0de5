"""One start from the process to ready: what is followed of it, what is compared with it, and what is kept of it."""

from __future__ import annotations

import time
from typing import Any

from server_manager.launchers.base import ServerHandle
from server_manager.settings import Settings
from server_manager.start_history import StartHistory, StartRecord
from server_manager.start_meter import StartMeter, StartProgressView
from server_manager.start_signs import StartSigns
from server_manager.start_subject import StartSubject
from server_manager.stop_receipt import Readings


class StartRun:
    """Made when the process is."""

    def __init__(
        self,
        handle: ServerHandle,
        subject: StartSubject | None,
        settings: Settings,
        readings: Readings,
    ) -> None:
        """``subject`` is ``None`` where the begin was not seen (adopted): then nothing is compared and nothing kept."""
        self._subject = subject
        self._history = StartHistory(settings.start_history_path)
        folders = subject.downloads_to if subject else ()
        self.meter = StartMeter(
            self._history.expect(subject) if subject else None,
            may_download=bool(folders),
            known_from_start=subject is not None,
        )

        def gpu_bytes() -> int | None:
            return readings.latest.gpu_bytes.get(handle.record.name) if readings.latest else None

        self.signs = StartSigns(handle, folders, gpu_bytes)

    def fields(self) -> dict[str, Any]:
        """Of ``ServerStatus``, as they are now."""
        reached = self.meter.reached
        return {"phase": reached.phase, "detail": reached.detail, "progress": self.meter.view()}

    def finished(self, started_at: float | None) -> StartProgressView:
        """To be called when it is ready. ``started_at`` is when the start was asked for, Unix time in seconds."""
        view, now = self.meter.finished(), time.time()
        if self._subject is not None and started_at:
            taken = self.meter.durations()
            self._history.add(
                self._subject, StartRecord(now, now - started_at, compiled=self.meter.compiled, phases=taken)
            )
        return view
