"""From a process that was just created to a server that answers: reads its log, asks ``/health``, notices a hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from server_manager.client import ServedModel, ServerClient
from server_manager.errors import ExitedDuringStart, ServerUnreachable, StartStalled
from server_manager.launchers.base import ServerHandle
from server_manager.log_file import LogFollower
from server_manager.progress_watch import ProgressWatch
from server_manager.settings import Settings
from server_manager.start_phase import PhaseReached, StartProgress
from server_manager.stop_request import StopRequest


async def until_ready(
    handle: ServerHandle,
    client: ServerClient,
    settings: Settings,
    stop: StopRequest,
    on_progress: Callable[[PhaseReached], None],
    on_lines: Callable[[Sequence[str]], object] = lambda lines: None,
) -> tuple[ServedModel, ...]:
    """Waits until ``/health`` says 200 and returns what is served then. ``on_lines`` gets the log's lines as they come.

    Raises ``ExitedDuringStart``, ``StartStalled``, ``RequestRejected`` (of ``/v1/models``) or ``StopRequested``.
    """
    follower = LogFollower(Path(handle.record.log_path))
    watch = ProgressWatch(settings.stall_after)
    progress = StartProgress()
    while True:
        lines = follower.read_new()
        on_lines(lines)
        if progress.take(lines):
            on_progress(progress.reached)
        if (returncode := handle.poll()) is not None:
            raise ExitedDuringStart("vLLM ended before it served.", returncode=returncode)
        if await stop.unless_asked(client.health()) == 200:
            served = await stop.unless_asked(_served(client))
            if served is not None:
                return served
        if watch.stalled(follower.offset, await asyncio.to_thread(handle.cpu_seconds)):
            raise StartStalled(
                f"Nothing has moved for {watch.idle_s:.0f} s, in the phase “{progress.reached.phase}”.",
                "See its log; a download or a driver that hangs is the usual reason.",
                phase=progress.reached.phase,
                idle_s=watch.idle_s,
            )
        await stop.unless_asked(asyncio.sleep(settings.health_interval))


async def _served(client: ServerClient) -> tuple[ServedModel, ...] | None:
    """What it serves, or ``None`` where a busy machine did not answer in time: then we ask again."""
    try:
        return await client.models()
    except ServerUnreachable:
        return None
