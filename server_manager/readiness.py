"""From a process that was just created to a server that answers: reads its log, asks ``/health``, notices a hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from server_manager.client import ServedModel, ServerClient
from server_manager.errors import ExitedDuringStart, ServerUnreachable
from server_manager.launchers.base import ServerHandle
from server_manager.log_file import LogFollower
from server_manager.progress_watch import ProgressWatch
from server_manager.settings import Settings
from server_manager.stall_report import stalled_start
from server_manager.start_run import StartRun
from server_manager.stop_request import StopRequest


async def until_ready(
    handle: ServerHandle,
    client: ServerClient,
    settings: Settings,
    stop: StopRequest,
    start: StartRun,
    on_lines: Callable[[Sequence[str]], None],
) -> tuple[ServedModel, ...]:
    """Waits until ``/health`` says 200 and returns what is served then.

    At each look ``start`` and then ``on_lines`` are told the new lines of the log, which may be none: time passes too.
    Raises ``ExitedDuringStart``, ``StartStalled``, ``RequestRejected`` (of ``/v1/models``) or ``StopRequested``.
    """
    follower = LogFollower(Path(handle.record.log_path))
    watch = ProgressWatch(settings.stall_after)
    meter, signs = start.meter, start.signs
    while True:
        lines = follower.read_new()
        meter.take(lines, signs.download)
        on_lines(lines)
        if (returncode := handle.poll()) is not None:
            raise ExitedDuringStart("vLLM ended before it served.", returncode=returncode)
        if await stop.unless_asked(client.health()) == 200:
            served = await stop.unless_asked(_served(client))
            if served is not None:
                meter.take(rest := follower.read_new(), signs.download)
                on_lines(rest)
                return served
        if watch.stalled(follower.offset, await stop.unless_asked(signs.look(at_download=meter.wants_download))):
            raise stalled_start(meter, watch)
        await stop.unless_asked(asyncio.sleep(settings.health_interval))


async def _served(client: ServerClient) -> tuple[ServedModel, ...] | None:
    """What it serves, or ``None`` where a busy machine did not answer in time: then we ask again."""
    try:
        return await client.models()
    except ServerUnreachable:
        return None
