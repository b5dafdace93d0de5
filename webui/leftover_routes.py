"""What servers of a dead app have left on this machine, and other people's vLLM: found, shown, and ours reclaimed."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from fastapi import APIRouter

from server_manager import findings_dict
from webui.context import AppContext
from webui.rest import Context, Operator

router = APIRouter()


@router.get("/api/leftovers")
async def leftovers(context: Context, user: Operator) -> dict[str, Any]:
    """What the last look found: at the app's start, or on demand."""
    return _found(context)


@router.post("/api/leftovers/scan")
async def scan(context: Context, user: Operator) -> dict[str, Any]:
    """Looks anew."""
    await context.leftovers.scan()
    return _found(context)


@router.post("/api/leftovers/{leftover_id}/reclaim")
async def reclaim(leftover_id: str, context: Context, user: Operator) -> dict[str, Any]:
    """Ends what is left of one server and answers when it is gone, with a receipt. Nothing else can be ended here."""
    told: dict[str, Any] = msgspec.to_builtins(await context.leftovers.reclaim(leftover_id))
    return told


def _found(context: AppContext) -> dict[str, Any]:
    latest = context.sampler.latest
    found = findings_dict(context.leftovers.latest, latest.devices if latest else (), time.time())
    return found | {"looked_at": context.leftovers.looked_at}
