"""Errors as answers of the REST interface: always ``{"error": {"code", "message", "next_step", …}}``."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from server_manager import ServerExit, ServerManagerError
from webui.error_words import error_in_words
from webui.failure_view import translated

_STATUS = {
    "unknown_model": 404,
    "unknown_leftover": 404,
    "unknown_load_test": 404,
    "not_found": 404,
    "not_kept": 404,
    "too_large": 413,
    "not_allowed": 409,
    "invalid_model": 422,
    "insufficient_memory": 409,
    "context_exceeded": 422,
    "too_many_answers": 429,
    "closing": 503,
    "state_dir": 507,
}
_PLACE = ("key", "path", "line")


class NoSuchRoute(ServerManagerError):
    """A path that the REST interface does not have."""

    code = "not_found"


def error_dict(error: ServerManagerError) -> dict[str, Any]:
    """What happened and what to do.

    Both in one as ``translations``, where the page has words for it. For a mistake in a model also the ``key``,
    ``path`` and ``line`` where known, for a server that failed the ``diagnosis`` without its proof.
    """
    place = {name: error.facts[name] for name in _PLACE if error.facts.get(name) is not None}
    if "path" in place:
        place["path"] = str(place["path"])
    found = {"code": error.code, "message": error.message, "next_step": error.next_step, **place}
    if words := error_in_words(error.message, error.next_step):
        found["translations"] = words
    end = error.facts.get("exit")
    if isinstance(end, ServerExit) and (why := end.diagnosis) is not None:
        brief = {
            "cause": why.cause,
            "title": why.title,
            "remedy": why.remedy,
            "translations": translated(why),
        }
        found["diagnosis"] = {"server": error.facts.get("name"), **brief}
    return found


def install_error_handlers(app: FastAPI) -> None:
    """Answers a ``ServerManagerError`` of a route, a request of the wrong form, and our own mistakes."""

    def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ServerManagerError)
        status = 403 if error.facts.get("role") else _STATUS.get(error.code, 502)
        return _answer(status, error_dict(error))

    def malformed(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = [f"{'.'.join(map(str, item['loc'][1:])) or item['loc'][0]}: {item['msg']}" for item in error.errors()]
        message = "; ".join(found[:3]) + "."
        return _answer(422, {"code": "invalid_request", "message": message, "next_step": "See /docs."})

    def mistake(request: Request, error: Exception) -> JSONResponse:
        return _answer(
            500, {"code": "mistake", "message": "vLLM Deck made a mistake.", "next_step": "Its log says which."}
        )

    app.add_exception_handler(ServerManagerError, known)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(Exception, mistake)


def _answer(status: int, error: dict[str, Any]) -> JSONResponse:
    return JSONResponse({"error": error}, status_code=status)
