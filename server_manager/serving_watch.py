"""Watches a server that serves until it ends or is to end."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from server_manager.client import ServerClient
from server_manager.errors import ExitedDuringStart
from server_manager.launchers.base import ServerHandle
from server_manager.stop_request import StopRequest, StopRequested

HEALTH_INTERVAL_SECONDS = 2.0
ENGINE_DEATH_PATIENCE_SECONDS = 6.5
"""After ``/health`` says 503 vLLM takes about 5 s to exit; its log is complete then."""
REFUSAL_PATIENCE_SECONDS = 6.0
"""Somebody else told it to end. It stops listening then, and may hang for good where a request was open."""


async def until_ended(handle: ServerHandle, client: ServerClient, stop: StopRequest) -> NoReturn:
    """Raises ``ExitedDuringStart`` when it has ended or its engine has died, ``StopRequested`` when it is to end."""
    ended = asyncio.ensure_future(handle.wait())
    asked = asyncio.ensure_future(stop.wait())
    try:
        while True:
            await asyncio.wait({ended, asked}, timeout=HEALTH_INTERVAL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                raise StopRequested
            if ended.done():
                raise ExitedDuringStart("vLLM ended while it served.", returncode=ended.result())
            status = await stop.unless_asked(client.health())
            if status == 503:
                await asyncio.wait(
                    {ended, asked}, timeout=ENGINE_DEATH_PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                raise ExitedDuringStart("vLLM's engine died while it served.", returncode=handle.poll())
            if status is None and await stop.unless_asked(client.refuses()):
                await asyncio.wait(
                    {ended, asked}, timeout=REFUSAL_PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if not asked.done() and (ended.done() or await stop.unless_asked(client.refuses())):
                    raise ExitedDuringStart("vLLM ended while it served.", returncode=handle.poll())
    finally:
        ended.cancel()
        asked.cancel()
