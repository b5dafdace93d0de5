"""Our errors as answers of the REST interface."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from server_manager import ServerManagerError

_STATUS = {
    "unknown_model": 404,
    "not_allowed": 409,
    "invalid_model": 422,
    "insufficient_memory": 409,
    "context_exceeded": 422,
    "closing": 503,
    "state_dir": 507,
}


def error_dict(error: ServerManagerError) -> dict[str, Any]:
    """What happened, and what to do."""
    return {"code": error.code, "message": error.message, "next_step": error.next_step}


def install_error_handler(app: FastAPI) -> None:
    """Answers every ``ServerManagerError`` of a route with its code, message and next step."""

    def answer(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ServerManagerError)
        status = 403 if error.facts.get("role") else _STATUS.get(error.code, 502)
        return JSONResponse({"error": error_dict(error)}, status_code=status)

    app.add_exception_handler(ServerManagerError, answer)
