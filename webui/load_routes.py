"""Load tests over HTTP, for operators: begun, watched, stopped, compared, taken away as files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, Field

from server_manager import (
    LOAD_TEST_PRESETS,
    LoadRun,
    compare_load_tests,
    load_settings_from,
    load_test_as_csv,
    load_test_as_json,
    load_test_as_markdown,
    load_test_as_png,
    load_test_file_name,
)
from webui.attachment import attachment
from webui.body_limit import LimitedRoute
from webui.context import AppContext
from webui.failure_view import translated
from webui.rest import Context, Operator

router = APIRouter(route_class=LimitedRoute)
_PRIVATE = {"Cache-Control": "no-store"}
_TYPES = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "png": "image/png",
}


class LoadTestForm(BaseModel):
    """A load test to be made."""

    servers: list[str] = Field(description="Names of models; more than one makes a ladder.")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields in place of the preset's (`preset`: `chat`, `long_prompt` or `tutorial`); see "
        '`/api/load-tests/presets`. `concurrency: [1, 8, 32]` or `request_rates: [2, 4, "inf"]`, or '
        "`sla: {ttft_p99_ms: 500, max_concurrency: 256}` for a search.",
    )
    name: Annotated[str, Field(max_length=10_000)] = ""
    ladder: bool = Field(False, description="A ladder also where it is one model only.")


class NewName(BaseModel):
    """What a run is to be called."""

    name: Annotated[str, Field(max_length=10_000)]


@router.get("/api/load-tests")
async def load_tests(context: Context, user: Operator) -> Response:
    """Every load test, the newest first, and the id of the one that runs."""
    return _json({"runs": context.load_tests.listed(), "running": context.load_tests.running})


@router.get("/api/load-tests/presets")
async def load_test_presets(user: Operator) -> Response:
    """The settings that a test can begin from, by name."""
    return _json(dict(LOAD_TEST_PRESETS))


@router.get("/api/load-tests/compare")
async def compare(
    context: Context, user: Operator, ids: Annotated[str, Query(description="Two or more, with commas between them.")]
) -> Response:
    """Figures level by level, and by how many per cent each differs from the first run that has the level."""
    runs = [await context.load_tests.get(run_id) for run_id in dict.fromkeys(filter(None, ids.split(",")))]
    return _json(await asyncio.to_thread(compare_load_tests, runs))


@router.post("/api/load-tests", status_code=202)
async def begin_load_test(form: LoadTestForm, context: Context, user: Operator) -> Response:
    """Puts a load test into the queue, where it waits for those before it. A server that is not up is started."""
    settings = load_settings_from(form.settings)
    run = await context.load_tests.begin(form.servers, settings, form.name, ladder=form.ladder)
    return _json(_shown(run, context), 202)


@router.get("/api/load-tests/{run_id}")
async def load_test(
    run_id: str, context: Context, user: Operator, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """The whole of it. To be asked again while it runs, with `If-None-Match`: 304 as long as nothing has changed."""
    tag = f'"{context.load_tests.revision(run_id)}-{context.load_tests.position(run_id)}"'
    headers = {"Cache-Control": "private, no-cache", "ETag": tag}
    if if_none_match == tag:
        return Response(status_code=304, headers=headers)
    return _json(_shown(await context.load_tests.get(run_id), context), headers=headers)


@router.patch("/api/load-tests/{run_id}")
async def rename_load_test(run_id: str, form: NewName, context: Context, user: Operator) -> Response:
    """Gives it another name."""
    return _json(_shown(await context.load_tests.rename(run_id, form.name), context))


@router.delete("/api/load-tests/{run_id}")
async def delete_load_test(run_id: str, context: Context, user: Operator) -> dict[str, str]:
    """Deletes it for good, with what vLLM wrote. One that is still going on must be stopped first."""
    await context.load_tests.delete(run_id)
    return {"deleted": run_id}


@router.post("/api/load-tests/{run_id}/stop")
async def stop_load_test(run_id: str, context: Context, user: Operator) -> Response:
    """Ends it, or takes it out of the queue; answers when nothing of the generator is left."""
    return _json(_shown(await context.load_tests.stop(run_id), context))


@router.post("/api/load-tests/{run_id}/repeat", status_code=202)
async def repeat_load_test(run_id: str, context: Context, user: Operator) -> Response:
    """The same again, as a new one."""
    return _json(_shown(await context.load_tests.repeat(run_id), context), 202)


@router.get("/api/load-tests/{run_id}/export")
async def export(
    run_id: str,
    context: Context,
    user: Operator,
    form: Annotated[Literal["json", "csv", "md", "png"], Query(alias="format")] = "json",
    dark: Annotated[bool, Query(description="Of the picture.")] = False,
) -> Response:
    """A file: everything as JSON, the figures as CSV or Markdown, the charts as a picture."""
    run = await context.load_tests.get(run_id)
    make: dict[str, Callable[[], str | bytes]] = {
        "json": lambda: load_test_as_json(run),
        "csv": lambda: load_test_as_csv(run),
        "md": lambda: load_test_as_markdown(run),
        "png": lambda: load_test_as_png(run, dark=dark),
    }
    name = load_test_file_name(run, form)
    return Response(
        await asyncio.to_thread(make[form]),
        media_type=_TYPES[form],
        headers={**_PRIVATE, **attachment(name, "load-test", edges="-.")},
    )


def _shown(run: LoadRun, context: AppContext) -> dict[str, Any]:
    """A run for the page: with its place in the queue, and failures in every language."""
    found: dict[str, Any] = msgspec.to_builtins(run)
    found["position"] = context.load_tests.position(run.id)
    for row, shown in zip(run.rows, found["rows"], strict=True):
        if row.diagnosis is not None:
            del shown["diagnosis"]["title_phrases"], shown["diagnosis"]["remedy_phrases"]
            shown["diagnosis"]["translations"] = translated(row.diagnosis)
    return found


def _json(found: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode(found), status_code=status, media_type="application/json", headers=headers or _PRIVATE
    )
