"""The route that starts a failed server again with a correction."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from server_manager import NotAllowed, apply_fix
from webui.failure_view import for_operators
from webui.rest import Context, Operator
from webui.snapshot import status_dict

router = APIRouter()


class Retry(BaseModel):
    """Which correction to try."""

    fix: str = Field(description="The `id` of one of the server's `exit.diagnosis.fixes`.")
    value: str | None = Field(None, max_length=10_000, description="What the fix `asks` for. It is never sent back.")


@router.post("/api/servers/{name}/retry", status_code=202)
async def retry(name: str, body: Retry, context: Context, user: Operator) -> dict[str, Any]:
    """Writes a correction into the model's file (of a shipped model, into a copy of your own) and begins a start."""
    end = context.manager.server(name).status.exit
    offered = end.diagnosis.fixes if end is not None and end.diagnosis is not None else ()
    fix = next((fix for fix in offered if fix.id == body.fix), None)
    if fix is None:
        raise NotAllowed(
            f"{name} has no such correction to try.", "Load the page again: it may have been started since."
        )
    catalogue = context.manager.catalogue
    corrected = apply_fix(catalogue.get(name), fix, body.value)
    await asyncio.to_thread(catalogue.save, corrected)
    status = context.manager.start(name).status
    return for_operators(status_dict(status), status, catalogue)
