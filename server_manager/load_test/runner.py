"""All load tests of this app: those that are kept, the one that runs, and those that wait for it to end.

One at a time: two would disturb each other's figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from server_manager.background import Background
from server_manager.errors import ManagerClosed, NotAllowed, ServerManagerError, SpecError, StateDirError
from server_manager.generation_config import context_length, is_context_scaled
from server_manager.load_test.bench import Bench
from server_manager.load_test.ladder import bring_back, goes_on, note_found, put_away, resumed
from server_manager.load_test.level import failure_of
from server_manager.load_test.live_run import LiveRun
from server_manager.load_test.plan import planned_rows
from server_manager.load_test.row import measure_row
from server_manager.load_test.run import (
    OVER_STATES,
    Failure,
    LoadRun,
    LoadState,
    RunKind,
    RunSummary,
    summary_of,
)
from server_manager.load_test.settings import LoadSettings, check, check_fits
from server_manager.load_test.store import new_id, unknown
from server_manager.model_spec import ModelSpec
from server_manager.server_state import ServerState

log = logging.getLogger(__name__)

MAX_NAME_CHARS = 200
MOST_SERVERS = 32
_SEEDS = 1_000_000


class LoadTests:
    """Methods belong to the event loop."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._summaries: dict[str, RunSummary] = {}
        self._live: dict[str, LiveRun] = {}
        """Those that wait or run, and those whose last version could not be saved."""
        self._queue: list[str] = []
        self._running: tuple[str, asyncio.Task[None]] | None = None
        self._background = Background(_tell_failure)
        self._closed = False

    # The app's own life

    async def open(self) -> None:
        """Reads what is kept. What was running when the app ended is interrupted; what waited goes on waiting, and a
        ladder goes on where it was.
        """
        for kept in await asyncio.to_thread(self._bench.store.load_all):
            run = resumed(kept) if kept.kind is RunKind.LADDER and goes_on(kept) else kept
            if not run.is_over:
                live = self._live[run.id] = LiveRun(run, self._bench.store)
                if run.state is LoadState.RUNNING:
                    await self._over(live, LoadState.STOPPED if run.stop_asked else LoadState.INTERRUPTED)
                    continue
                self._queue.append(run.id)
            self._summaries[run.id] = summary_of(run)
        self._next()

    async def close(self) -> None:
        """Ends the one that runs, its generator too. Those that wait go on when the app is back."""
        self._closed = True
        self._background.close()
        if self._running is not None:
            run_id, task = self._running
            if not self._live[run_id].run.is_over:  # else it is only being saved
                task.cancel()
            await asyncio.wait({task})

    # Looking

    def listed(self) -> list[RunSummary]:
        """Every run, the newest first."""
        now = {run_id: summary_of(live.run, self.position(run_id)) for run_id, live in self._live.items()}
        return sorted((self._summaries | now).values(), key=lambda run: run.created_at, reverse=True)

    @property
    def running(self) -> str | None:
        """The id of the run that is going on."""
        return self._running[0] if self._running else None

    def position(self, run_id: str) -> int | None:
        """How many runs come first; ``None`` where it does not wait."""
        if run_id not in self._queue:
            return None
        return self._queue.index(run_id) + (self._running is not None)

    def revision(self, run_id: str) -> int:
        """Of the newest version. Raises ``UnknownLoadTest``."""
        if live := self._live.get(run_id):
            return live.run.revision
        if known := self._summaries.get(run_id):
            return known.revision
        raise unknown(run_id)

    async def get(self, run_id: str) -> LoadRun:
        """The run as it is now. Raises ``UnknownLoadTest``."""
        if live := self._live.get(run_id):
            return live.run
        return await asyncio.to_thread(self._bench.store.load, run_id)

    # Doing

    async def begin(
        self, servers: Sequence[str], settings: LoadSettings, name: str = "", *, ladder: bool = False
    ) -> LoadRun:
        """Puts a run at the end of the queue.

        Raises ``UnknownModel``, ``SpecError`` for settings that cannot work, or ``StateDirError``.
        """
        if self._closed:
            raise ManagerClosed("vLLM Deck is shutting down.", "Start it again to go on.")
        check(settings)
        models = tuple(dict.fromkeys(servers))
        ladder = ladder or len(models) > 1
        if not 1 <= len(models) <= MOST_SERVERS:
            raise SpecError(f"A load test has 1 to {MOST_SERVERS} models.", "Choose at least one.", key="servers")
        if ladder and settings.sla is not None:
            raise SpecError("The search for a limit is for one model.", "Choose one, or leave sla away.", key="sla")
        if settings.dataset != "random" and not await asyncio.to_thread(_is_file, settings.dataset_path):
            raise SpecError(
                f"There is no file {settings.dataset_path}.",
                "Give the dataset's path on the machine of the app.",
                key="dataset_path",
            )
        for model in models:
            try:
                check_fits(settings, await self._context_of(model))
            except SpecError as error:
                if len(models) == 1:
                    raise
                raise SpecError(f"{model}: {error.message}", error.next_step, **error.facts) from error
        kind = RunKind.LADDER if ladder else RunKind.SLA if settings.sla else RunKind.TEST
        seed = settings.seed if settings.seed is not None else secrets.randbelow(_SEEDS)
        run = LoadRun(
            new_id(),
            _name(name) or _default_name(models, kind),
            kind,
            time.time(),
            settings,
            rows=planned_rows(models, settings, seed),
        )
        live = LiveRun(run, self._bench.store)
        await live.save()
        self._live[run.id] = live
        self._queue.append(run.id)
        self._next()
        return live.run

    async def stop(self, run_id: str) -> LoadRun:
        """Ends a run, or takes it out of the queue, and answers when nothing of it is left.

        Raises ``UnknownLoadTest``; ``NotAllowed`` where it is over.
        """
        live = self._live.get(run_id)
        if live is None or live.run.is_over:
            await self.get(run_id)
            raise NotAllowed("This load test is over.", "There is nothing to stop.")
        live.change(stop_asked=True)
        with contextlib.suppress(StateDirError):  # it is written once more at its end
            await live.save()  # now: should the app be killed meanwhile, the next one obeys too
        if run_id in self._queue:
            self._queue.remove(run_id)
            await self._over(live, LoadState.STOPPED)
        elif self._running is not None and self._running[0] == run_id:
            task = self._running[1]
            task.cancel()
            await asyncio.wait({task})
        return live.run

    async def repeat(self, run_id: str) -> LoadRun:
        """The same again, on the same servers, as a new run. Raises what ``begin`` raises."""
        run = await self.get(run_id)
        models = [row.model for row in run.rows]
        return await self.begin(models, run.settings, run.name, ladder=run.kind is RunKind.LADDER)

    async def rename(self, run_id: str, name: str) -> LoadRun:
        """An empty name becomes the one it had at first. Raises ``UnknownLoadTest`` or ``StateDirError``."""
        await self._settled(run_id)
        live = self._live.get(run_id) or LiveRun(await self.get(run_id), self._bench.store)
        models = tuple(row.model for row in live.run.rows)
        live.change(name=_name(name) or _default_name(models, live.run.kind))
        await live.save()
        self._summaries[run_id] = summary_of(live.run)
        return live.run

    async def delete(self, run_id: str) -> None:
        """For good. Raises ``UnknownLoadTest``, ``StateDirError``, or ``NotAllowed`` while it waits or runs."""
        await self._settled(run_id)
        live = self._live.get(run_id)
        if live is not None and not live.run.is_over:
            raise NotAllowed("This load test is still going on.", "Stop it first.")
        await asyncio.to_thread(self._bench.store.delete, run_id)
        self._live.pop(run_id, None)
        self._summaries.pop(run_id, None)

    # The one that runs

    def _next(self) -> None:
        if self._running is not None or self._closed or not self._queue:
            return
        live = self._live[self._queue.pop(0)]
        task = asyncio.create_task(self._run(live), name=f"load test {live.id}")
        self._running = (live.id, task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running = None
        if not task.cancelled() and (error := task.exception()):
            log.error("a load test ended unexpectedly", exc_info=error)
        self._next()

    async def _run(self, live: LiveRun) -> None:
        """From its turn to its end; every way of ending is written into the run."""
        try:
            live.change(state=LoadState.RUNNING, started_at=live.run.started_at or time.time())
            if live.run.kind is RunKind.LADDER:
                await self._climb(live)
            else:
                await live.save()
                await measure_row(live, 0, self._bench)
        except asyncio.CancelledError:
            await self._over(live, LoadState.STOPPED if live.run.stop_asked else LoadState.INTERRUPTED)
        except ServerManagerError as error:
            live.change(error=failure_of(error))
            await self._over(live, LoadState.FAILED)
        except (
            Exception
        ) as error:  # whatever it is: the run must not stay "running", and the next one must get its turn
            log.exception("load test %s ended unexpectedly", live.id)
            live.change(error=Failure(f"vLLM Deck made a mistake: {error!r}.", "Please report it with the app's log."))
            await self._over(live, LoadState.FAILED)
        else:
            state = _outcome(live.run)
            if state is LoadState.FAILED and len(live.run.rows) == 1:
                live.change(error=live.row(0).error)
            await self._over(live, state)

    async def _climb(self, live: LiveRun) -> None:
        """A ladder: each model is put away before the next; what was up before is up at the end."""
        note_found(live, self._bench)
        await live.save()
        for index, row in enumerate(live.run.rows):
            if row.state in OVER_STATES:
                continue  # before the app's end
            try:
                await measure_row(live, index, self._bench)
                await live.save()
            except BaseException:
                # Beside what comes next: whoever stopped it does not wait for that. At its own end the app ends all.
                self._background.begin(self._leave(live, row.model), name="after a ladder")
                raise
            await put_away(row.model, live.run.found or {}, self._bench)
        await bring_back(live, self._bench)

    async def _leave(self, live: LiveRun, model: str) -> None:
        await put_away(model, live.run.found or {}, self._bench)
        await bring_back(live, self._bench)

    async def _settled(self, run_id: str) -> None:
        """Waits until a run that is over has been saved for the last time."""
        if self._running is not None and self._running[0] == run_id and self._live[run_id].run.is_over:
            await asyncio.wait({self._running[1]})

    async def _over(self, live: LiveRun, state: LoadState) -> None:
        """Ends the run, and whatever of it is not over yet, in that state; keeps it."""
        live.close(state)
        try:
            await live.save()
        except StateDirError as error:  # its figures can still be looked at and exported until the app ends
            log.error("%s", error)
            live.change(error=live.run.error or failure_of(error))
        else:
            self._live.pop(live.id, None)
        self._summaries[live.id] = summary_of(live.run)

    async def _context_of(self, model: str) -> int | None:
        """The model's context in tokens, if it is known before it is up. Raises ``UnknownModel`` or ``SpecError``."""
        manager = self._bench.manager
        status = manager.server(model).status
        if status.attached or status.state in (ServerState.READY, ServerState.ASLEEP):
            return status.max_model_len
        with contextlib.suppress(ValueError):
            spec = manager.local_files(manager.catalogue.get(model))
            if (wanted := spec.options.get("max-model-len")) is not None:
                return int(str(wanted)) if int(str(wanted)) > 0 else None
            return await asyncio.to_thread(_context_by_files, spec)
        return None


def _outcome(run: LoadRun) -> LoadState:
    """Done, if any of its rows is: a ladder goes on over a model that fails."""
    return LoadState.DONE if any(row.state is LoadState.DONE for row in run.rows) else LoadState.FAILED


def _context_by_files(spec: ModelSpec) -> int | None:
    """``None`` where vLLM may make more of it than the files say."""
    scaled = "hf-overrides" in spec.options or is_context_scaled(spec.model, env=spec.env)
    return None if scaled else context_length(spec.model, env=spec.env)


def _is_file(path: str) -> bool:
    return Path(path).expanduser().is_file()


def _name(text: str) -> str:
    return " ".join(text.split())[:MAX_NAME_CHARS]


def _default_name(models: Sequence[str], kind: RunKind) -> str:
    return ", ".join(models)[:MAX_NAME_CHARS] if kind is not RunKind.SLA else f"{models[0]} SLA"


def _tell_failure(error: BaseException) -> None:
    if not isinstance(error, ManagerClosed):
        log.error("putting models away after a ladder failed", exc_info=error)
