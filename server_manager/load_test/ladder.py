"""What a ladder does besides measuring its rows: models are put away after their turn, and those that were up before
are up again at its end; one that the end of the app has interrupted goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from server_manager.errors import ManagerClosed, ServerManagerError
from server_manager.load_test.bench import Bench
from server_manager.load_test.live_run import LiveRun
from server_manager.load_test.run import Level, LoadRun, LoadState, Row
from server_manager.server_state import ServerState, ServerStatus
from server_manager.switching.policy import is_switchable

log = logging.getLogger(__name__)

_UP = frozenset({ServerState.READY, ServerState.STARTING})


def note_found(live: LiveRun, bench: Bench) -> None:
    """Notes which servers are up, to leave them so.

    Of a ladder that goes on after a restart: a model of its own counts only where it was up before the ladder too.
    """
    before, models = live.run.found, {row.model for row in live.run.rows}
    found: dict[str, Literal["ready", "asleep"]] = {}
    for name, status in bench.manager.statuses().items():
        if not status.attached and (before is None or name in before or name not in models):
            if status.state in _UP:
                found[name] = "ready"
            elif status.state is ServerState.ASLEEP:
                found[name] = "asleep"
    if before:
        found |= {name: before[name] for name in found if name in before}
    live.change(found=found)


async def put_away(name: str, found: Mapping[str, str], bench: Bench) -> None:
    """After its row: asleep where it can sleep and may, else stopped. One that was up, or is in use, is left alone."""
    manager = bench.manager
    if found.get(name) == "ready":
        return
    try:
        status = manager.server(name).status
        if status.attached or status.state not in _UP or manager.idle_since(name) is None:
            return
        if status.state is ServerState.READY and (found.get(name) == "asleep" or _may_sleep(name, status, bench)):
            try:
                await manager.sleep(name)
            except ManagerClosed:
                raise
            except ServerManagerError as error:
                log.warning("%s cannot be put to sleep (%s): it is stopped.", name, error)
            else:
                return
        await manager.end_idle(name)
    except ManagerClosed:
        raise
    except ServerManagerError as error:  # the next one makes room for itself, or says why it cannot
        log.warning("%s cannot be put away after its load test: %s", name, error)


def _may_sleep(name: str, status: ServerStatus, bench: Bench) -> bool:
    if status.sleep is None or not status.sleep.frees_memory:
        return False
    try:
        return is_switchable(bench.manager.catalogue.get(name))
    except ServerManagerError:  # its file is gone: nobody could wake it by its name
        return False


def to_bring_back(live: LiveRun, bench: Bench) -> list[str]:
    """Those that were up before the ladder and had to make room for one of its models."""
    board, began = bench.manager.board, live.run.started_at or 0.0
    up = (name for name, state in (live.run.found or {}).items() if state == "ready")
    return [name for name in up if name in bench.manager.names() and board.made_room(name, began)]


async def bring_back(live: LiveRun, bench: Bench) -> None:
    """Once all is measured: what was up before is up again."""
    for name in to_bring_back(live, bench):
        try:
            await bench.manager.ensure_ready(name)
        except ManagerClosed:
            raise
        except ServerManagerError as error:
            log.warning("%s was up before the ladder and cannot be brought back: %s", name, error)


def goes_on(run: LoadRun) -> bool:
    """Whether it was cut short by the end of the app and is to go on now."""
    return run.state in (LoadState.RUNNING, LoadState.INTERRUPTED) and not run.stop_asked and len(run.rows) > 0


def resumed(run: LoadRun) -> LoadRun:
    """As it waits to go on: rows and levels that are over stay, the row that was going on begins anew."""
    return replace(
        run,
        state=LoadState.QUEUED,
        ended_at=None,
        rows=tuple(map(_row_anew, run.rows)),
        revision=run.revision + 1,
    )


def _row_anew(row: Row) -> Row:
    if row.state not in (LoadState.RUNNING, LoadState.INTERRUPTED):
        return row
    return Row(row.model, levels=tuple(map(_level_anew, row.levels)))


def _level_anew(level: Level) -> Level:
    if level.state is LoadState.DONE:
        return level
    return Level(level.label, level.concurrency, level.request_rate, level.num_prompts, level.seed)
