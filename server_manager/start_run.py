"""One start from the process to ready: what is followed of it, what is compared with it, and what is kept of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from server_manager.launchers.base import ServerHandle
from server_manager.settings import Settings
from server_manager.start_estimate import Expectation
from server_manager.start_history import StartHistory, StartRecord
from server_manager.start_meter import StartMeter, StartProgressView
from server_manager.start_signs import StartSigns
from server_manager.start_subject import StartSubject
from server_manager.stop_receipt import Readings


class StartRun:
    """Made when the process is."""

    def __init__(
        self, handle: ServerHandle, subject: StartSubject | None, history: StartHistory, expectation: Expectation,
        readings: Readings,
    ) -> None:  # fmt: skip
        """See ``begin``."""
        self._subject = subject
        self._history = history
        folders = subject.downloads_to if subject else ()
        self.meter = StartMeter(expectation, may_download=bool(folders), known_from_start=subject is not None)

        def gpu_bytes() -> int | None:
            return readings.latest.gpu_bytes.get(handle.record.name) if readings.latest else None

        self.signs = StartSigns(handle, folders, gpu_bytes)

    @classmethod
    async def begin(
        cls, handle: ServerHandle, subject: StartSubject | None, settings: Settings, readings: Readings
    ) -> StartRun:
        """``subject`` is ``None`` where the begin was not seen (adopted): then nothing is compared and nothing kept."""
        history = StartHistory(settings.start_history_path)
        expectation = await asyncio.to_thread(history.expect, subject) if subject else Expectation()
        return cls(handle, subject, history, expectation, readings)

    def fields(self) -> dict[str, Any]:
        """Of ``ServerStatus``, as they are now."""
        reached = self.meter.reached
        return {"phase": reached.phase, "detail": reached.detail, "progress": self.meter.view()}

    async def finished(self) -> StartProgressView:
        """To be called when it is ready."""
        view, taken = self.meter.finished(), self.meter.durations()
        if self._subject is not None:
            record = StartRecord(time.time(), sum(taken.values()), compiled=self.meter.compiled, phases=taken)
            await asyncio.to_thread(self._history.add, self._subject, record)
        return view
