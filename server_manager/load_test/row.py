"""One model of a run: brought up, looked at, measured level by level."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from server_manager.errors import LaunchError, ManagerClosed, ServerManagerError, StateDirError, StopError
from server_manager.load_test.bench import Bench
from server_manager.load_test.command import ROUTES
from server_manager.load_test.level import Place, failure_of, measure_level
from server_manager.load_test.live_run import LiveRun
from server_manager.load_test.plan import concurrency_level
from server_manager.load_test.run import Failure, LoadState
from server_manager.load_test.samples import devices_of
from server_manager.load_test.settings import LoadSettings, check_fits
from server_manager.load_test.sla import SlaSearch
from server_manager.load_test.target import Target, target_of
from server_manager.manager import Server
from server_manager.phrases import Phrase
from server_manager.server_state import ServerExit, ServerState, ServerStatus

_LOOK_SECONDS = 0.5
_TRY_SECONDS = 60.0
_OF_THE_RUN = (StateDirError, LaunchError, StopError, ManagerClosed)
"""What no other row would fare better with."""


async def measure_row(live: LiveRun, index: int, bench: Bench) -> None:
    """Everything from bringing the server up to its last level; how it ends is written into the row.

    The server is in use all the while, so that nothing puts it to sleep. Raises ``StateDirError`` or ``LaunchError``
    where the run as a whole cannot go on.
    """
    name = live.row(index).model
    live.change_row(index, state=LoadState.RUNNING, progress=Phrase("load_waiting"))
    try:
        before = bench.manager.server(name).status
        showing = asyncio.create_task(_show_progress(live, index, bench), name=f"progress of {name}")
        try:
            async with bench.manager.use(name) as server:
                showing.cancel()
                live.change_row(index, progress=Phrase("load_preparing"), **_how_it_came_up(before, server.status))
                target = await _look_at(live, index, server, bench)
                live.change_row(index, progress=Phrase("load_measuring"))
                error = await _measure(live, index, server, target, bench)
        finally:
            showing.cancel()
            await asyncio.wait({showing})
    except _OF_THE_RUN:
        raise
    except ServerManagerError as failed:
        end = failed.facts.get("exit")
        why = end.diagnosis if isinstance(end, ServerExit) else None
        _fail(live, index, failure_of(failed))
        live.change_row(index, diagnosis=why)
    else:
        if error is not None:
            _fail(live, index, error)
        else:
            live.change_row(index, state=LoadState.DONE, progress=None)


async def _measure(live: LiveRun, index: int, server: Server, target: Target, bench: Bench) -> Failure | None:
    """All levels, those of a search as it finds them; the failure of the one that ended it."""
    if live.run.settings.sla is not None:
        return await _search(live, index, server, target, bench)
    for level in range(len(live.row(index).levels)):
        place = Place(live, index, level)
        if place.level.state is LoadState.DONE:
            continue  # before the app's end
        if not await measure_level(place, server, target, bench):
            return place.level.error
        await live.save()
    return None


async def _search(live: LiveRun, index: int, server: Server, target: Target, bench: Bench) -> Failure | None:
    settings = live.run.settings
    assert settings.sla is not None
    search = SlaSearch(settings.sla)
    seed = live.level(index, 0).seed
    live.change_row(index, levels=())
    live.change(sla=search.result)
    while (wanted := search.next()) is not None:
        levels = live.row(index).levels
        live.change_row(index, levels=(*levels, concurrency_level(wanted, settings, seed + len(levels))))
        place = Place(live, index, len(levels))
        await measure_level(place, server, target, bench)
        metrics = place.level.metrics
        if metrics is None or (not metrics.completed and not levels):
            return place.level.error  # the generator could not do its work: a lower load would not help
        search.tell(wanted, metrics.p99_ttft_ms, all_answered=not metrics.failed)
        live.change(sla=search.result)
        await live.save()
    live.change(sla=search.finish())
    return None


def _fail(live: LiveRun, index: int, error: Failure) -> None:
    """Ends the row; of its levels, those that are not over did not work either."""
    not_run = Failure("Not run, because the test had ended before.", "", "not_run")
    for position, level in enumerate(live.row(index).levels):
        if level.state is LoadState.RUNNING:
            live.change_level(index, position, state=LoadState.FAILED, progress=None, error=error)
        elif level.state is LoadState.QUEUED:
            live.change_level(index, position, state=LoadState.FAILED, error=not_run)
    live.change_row(index, state=LoadState.FAILED, progress=None, error=error)


# What is known of the server


async def _show_progress(live: LiveRun, index: int, bench: Bench) -> None:
    """Follows a start or a wake, until it is cancelled."""
    name = live.row(index).model
    while True:
        with suppress(ServerManagerError):
            progress = _phrase_of(bench.manager.server(name).status)
            if progress != live.row(index).progress:
                live.change_row(index, progress=progress)
        await asyncio.sleep(_LOOK_SECONDS)


def _phrase_of(status: ServerStatus) -> Phrase:
    if status.waiting is not None or status.state not in (ServerState.STARTING, ServerState.ASLEEP):
        return Phrase("load_waiting", {"behind": list(status.waiting.behind)} if status.waiting else {})
    if status.state is ServerState.ASLEEP:
        return Phrase("load_waking")
    return Phrase("load_starting", {"phase": str(status.phase or ""), "detail": status.detail})


def _how_it_came_up(before: ServerStatus, now: ServerStatus) -> dict[str, object]:
    """Whether it was up, and how long it took otherwise."""
    if now.attached or (before.state is ServerState.READY and before.ready_at == now.ready_at):
        return {"was": "ready", "attached": now.attached}
    if before.state is ServerState.ASLEEP and before.ready_at == now.ready_at:
        return {"was": "woken", "load_s": now.sleep.wake_s if now.sleep else None}
    took = now.ready_at - now.started_at if now.ready_at and now.started_at else None
    return {"was": "started", "load_s": took}


async def _look_at(live: LiveRun, index: int, server: Server, bench: Bench) -> Target:
    """Notes what the figures are measured on. Raises ``SpecError`` where the requests would not fit the context."""
    status, settings = server.status, live.run.settings
    target = await target_of(server, settings, bench.manager)
    reading = None
    with suppress(ManagerClosed):
        reading = await bench.readings.fresh_reading()
    live.change_row(
        index,
        gpu_bytes=None if status.attached else bench.gpu_bytes(server.name),
        rss_bytes=reading.rss_bytes.get(server.name) if reading and not status.attached else None,
        kv_cache_tokens=status.memory.kv_cache_tokens if status.memory else None,
        max_model_len=target.max_model_len,
        serve_command=status.command,
        tokenizer=target.tokenizer,
    )
    environment = live.run.environment
    gpus = tuple(device.name or "GPU" for device in devices_of(reading, server))
    live.change(
        environment=replace(
            environment,
            vllm_version=environment.vllm_version or await server.client().vllm_version(),
            gpus=environment.gpus or gpus,
            serve_command=tuple(each.serve_command for each in live.run.rows),
        )
    )
    template = await _template_tokens(server) if settings.api == "chat" else 0
    check_fits(settings, target.max_model_len, template)
    await _try(server, target, settings)
    return target


async def _try(server: Server, target: Target, settings: LoadSettings) -> None:
    """One request like those that will come. The generator would only say "Bad Request", and after ten seconds.

    Raises ``ChatError`` with the server's own words.
    """
    content: dict[str, object] = {"model": target.model, "max_tokens": 1, "temperature": 0}
    said = {"messages": [{"role": "user", "content": "a"}]} if settings.api == "chat" else {"prompt": "a"}
    await server.client().ask("POST", ROUTES[settings.api], {**content, **said}, seconds=_TRY_SECONDS)


async def _template_tokens(server: Server) -> int:
    """What the chat template adds to a prompt; 0 where the server cannot tell."""
    count = await server.client().count_tokens([{"role": "user", "content": "a"}])
    return max(0, count - 1) if count is not None else 0
