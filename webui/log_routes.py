"""Logs by HTTP: of servers and of the app itself, for operators. Read in a thread, however long they are."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from server_manager import LogAnswer, LogQuery, LogRun, NotAllowed, ServerLogs
from webui.context import AppContext
from webui.rest import Context, Operator

router = APIRouter()

MOST_LINES = 20_000
TailLines = Annotated[int, Query(alias="tail", ge=1, le=MOST_LINES, description="The most lines of the answer.")]
Search = Annotated[str, Query(max_length=200, description="Only lines with this text; its case does not matter.")]
Levels = Annotated[Literal["all", "warnings"], Query(description="`warnings`: only warnings and errors.")]
Since = Annotated[
    str, Query(max_length=100, description="`cursor` of an earlier answer to the same question: only what is new.")
]
Begin = Annotated[int | None, Query(alias="from", ge=0, description="Byte of the run to begin at, not its end.")]
Format = Annotated[Literal["text", "json"], Query(description="`json` tells numbers, levels and the cursor too.")]


@router.get("/api/servers/{name}/logs", response_class=PlainTextResponse)
async def logs(
    name: str,
    context: Context,
    user: Operator,
    tail_lines: TailLines = 200,
    search: Search = "",
    run: LogRun = LogRun.CURRENT,
    level: Levels = "all",
    since: Since = "",
    begin: Begin = None,
    form: Annotated[Format, Query(alias="format")] = "text",
) -> Response:
    """The last lines of a server's log, or those with a text or level in them: then with their line numbers, and where
    there are more than `tail` the first and the last half. Secrets are masked."""
    query = LogQuery(tail_lines, search, level == "warnings", since, begin)
    answer = await asyncio.to_thread(_logs_of(context, name).ask, name, run, query)
    return _response(answer, query, form)


@router.get("/api/servers/{name}/logs/download")
async def download(name: str, context: Context, user: Operator, run: LogRun = LogRun.CURRENT) -> Response:
    """The whole log of a run as a file, its older parts included. Secrets are masked."""
    found = _logs_of(context, name)
    file_name = await asyncio.to_thread(found.file_name, name, run)
    if file_name is None:
        raise NotAllowed(f"{name} has no log of this run.", "Start it first.")
    # Names of models are plain ASCII, so the header needs no encoding.
    headers = {"Content-Disposition": f'attachment; filename="{file_name}"'}
    return StreamingResponse(found.download(name, run), media_type="text/plain; charset=utf-8", headers=headers)


@router.get("/api/log", response_class=PlainTextResponse)
async def app_log(
    context: Context,
    user: Operator,
    tail_lines: TailLines = 200,
    search: Search = "",
    level: Levels = "all",
    since: Since = "",
    begin: Begin = None,
    form: Annotated[Format, Query(alias="format")] = "text",
) -> Response:
    """The same for vLLM Deck's own log."""
    query = LogQuery(tail_lines, search, level == "warnings", since, begin)
    answer = await asyncio.to_thread(ServerLogs(context.settings, context.manager.catalogue).ask_app, query)
    return _response(answer, query, form)


def _logs_of(context: AppContext, name: str) -> ServerLogs:
    if context.manager.server(name).status.attached:
        raise NotAllowed(f"{name} is attached; its log is not here.", "Look where it was started.")
    return ServerLogs(context.settings, context.manager.catalogue)


def _response(answer: LogAnswer, query: LogQuery, form: str) -> Response:
    return JSONResponse(_as_json(answer)) if form == "json" else PlainTextResponse(_as_text(answer, query))


def _as_json(answer: LogAnswer) -> dict[str, Any]:
    """Each line as ``[position, number, level, text]``: thousands of them travel at once."""
    return {
        "run": answer.run,
        "cursor": answer.cursor,
        "continues": answer.continues,
        "lines": [[line.at, line.number, line.level, line.text] for line in answer.lines],
        "rest": answer.rest,
        "hits": answer.hits,
        "first_hits": answer.first_hits,
        "bytes": answer.bytes,
    }


def _as_text(answer: LogAnswer, query: LogQuery) -> str:
    if not query.filters:
        rest = [answer.rest] if answer.rest else []
        return "".join(f"{line}\n" for line in ([line.text for line in answer.lines] + rest)[-query.tail :])
    found = [f"{line.number}: {line.text}" for line in answer.lines]
    if left_out := (answer.hits or 0) - len(found):
        found.insert(answer.first_hits, f"… {left_out} more …")
    return "".join(f"{line}\n" for line in found)
