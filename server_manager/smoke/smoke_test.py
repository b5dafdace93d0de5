"""Runs the smoke test of one server, which is started or woken for it as for a chat."""

from __future__ import annotations

import asyncio
import time

from server_manager.errors import ServerUnreachable
from server_manager.manager import ServerManager
from server_manager.smoke.asking import ask_prompts
from server_manager.smoke.judge import judge
from server_manager.smoke.result import SmokeResult


async def smoke_test(manager: ServerManager, name: str) -> SmokeResult:
    """Asks the server the four prompts and judges what it answers. It is in use meanwhile.

    Raises what ``ServerManager.lease`` raises where it does not come up, ``NotAllowed`` where it completes no text, and
    ``ChatError`` where it refuses the request, or is stopped meanwhile.
    """
    # A task of its own: a stop of the server cancels the one that holds the lease.
    work = asyncio.create_task(_ask_and_judge(manager, name), name=f"smoke test of {name}")
    try:
        await asyncio.wait({work})
    finally:
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
    if work.cancelled():
        raise ServerUnreachable(f"{name} was stopped in the middle of its smoke test.", "Start it, and test again.")
    return work.result()


async def _ask_and_judge(manager: ServerManager, name: str) -> SmokeResult:
    async with manager.lease(name) as server:
        began = time.monotonic()
        client = server.client()
        model = server.status.served_model_name or (await client.models())[0].id
        answers = await ask_prompts(client, model)
    return judge(name, answers, time.monotonic() - began)
