"""Looks at what may move while a server starts: its processes, its files, its download, its GPU memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from server_manager.download_watch import Download, DownloadWatch
from server_manager.errors import TelemetryError
from server_manager.launchers.base import ServerHandle
from server_manager.progress_watch import Signs, io_bytes
from server_manager.telemetry._calls import OneAtATime

_INTERVAL_S = 1.0
_PATIENCE_S = 0.25
"""A look takes some 5 ms. One that takes longer goes on in its thread, and its result is taken at a later look."""


class StartSigns:
    """One for each start. ``gpu_bytes`` returns what the server holds on GPUs, ``None`` where that is not known."""

    def __init__(
        self,
        handle: ServerHandle,
        folders: Sequence[Path],
        gpu_bytes: Callable[[], int | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``folders`` are those into which a hub's model is downloaded; ``clock`` returns seconds."""
        self.latest = Signs()
        self.download: Download | None = None
        self._handle = handle
        self._gpu_bytes = gpu_bytes
        self._watch = DownloadWatch(folders) if folders else None
        self._clock = clock
        self._due_at = clock()
        # A folder on a network disk that hangs must hang neither the start's stop nor the app's exit.
        self._look = OneAtATime("The disk with the models", self._read, _PATIENCE_S, clock)

    async def look(self, *, at_download: bool) -> Signs:
        """The newest signs, read again at most once a second; ``at_download``: whether there may be one."""
        if self._clock() >= self._due_at:
            self._due_at = self._clock() + _INTERVAL_S
            if not at_download:
                self._watch = self.download = None
            try:
                self.latest, self.download = await self._look()
            except TelemetryError:  # it takes long: nothing has moved that we could tell
                return self.latest
        return self.latest

    def _read(self) -> tuple[Signs, Download | None]:
        watch = self._watch
        download = watch.read() if watch else None
        signs = Signs(
            cpu_seconds=self._handle.cpu_seconds(),
            io_bytes=io_bytes(process.pid for process in self._handle.processes()),
            download_bytes=download.bytes_there if download else 0,
            gpu_bytes=self._gpu_bytes() or 0,
        )
        return signs, download
