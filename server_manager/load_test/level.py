"""One level: the generator as a child process, watched until it ends, and its result judged.

The child is started as servers are (``launchers/``): in a session of its own, with a guardian that ends it when the app
dies, its output in a file. Whatever happens, nothing of it is left when ``measure_level`` returns.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from server_manager.errors import LoadTestError, ServerManagerError, StateDirError, StopError
from server_manager.launchers.base import LaunchRequest, ServerHandle
from server_manager.load_test.bench import Bench
from server_manager.load_test.command import bench_args, generator_env, result_args, secret_env, shown_line
from server_manager.load_test.live_run import LiveRun
from server_manager.load_test.output import OutputReader, explain, last_lines
from server_manager.load_test.results import Result, read_result
from server_manager.load_test.run import Failure, Level, LevelProgress, LoadState
from server_manager.load_test.samples import SampleTaker
from server_manager.load_test.target import Target
from server_manager.manager import Server
from server_manager.server_state import ServerState

LOOK_SECONDS = 0.25
GUARDIAN_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Which level of which run."""

    live: LiveRun
    row: int
    index: int

    @property
    def level(self) -> Level:
        """As it is now."""
        return self.live.level(self.row, self.index)

    def change(self, **fields: object) -> None:
        self.live.change_level(self.row, self.index, **fields)


class ServerGone(LoadTestError):
    """The server ended while it was measured."""


async def measure_level(place: Place, server: Server, target: Target, bench: Bench) -> bool:
    """Runs the level; whether it has figures. How it ended is written into it.

    Raises ``ServerGone``; ``LaunchError`` or ``StateDirError`` where nothing could be started, ``StopError`` where
    something of the generator outlives SIGKILL. Cancelled, it ends the generator first.
    """
    level, settings = place.level, place.live.run.settings
    args = bench_args(level, settings, target)
    folder = bench.store.folder(place.live.id)
    stem = f"{place.row + 1}-{place.index + 1}-{level.label.replace('/', '-per-')}"
    result, output = folder / f"{stem}.json", folder / f"{stem}.log"
    place.change(
        state=LoadState.RUNNING,
        command=bench.mask().text(shown_line(args, target)),
        progress=LevelProgress("starting", 0, level.num_prompts),
    )
    await place.live.save()
    request = LaunchRequest(
        name=f"load-test-of-{server.name}",
        argv=(*bench.manager.settings.vllm_command, *args, *result_args(result)),
        env=generator_env(target, os.environ),
        log_path=output,
        port=0,
        secret_env=secret_env(target),
    )
    await asyncio.to_thread(_clear, result, output)
    reader = OutputReader(output, level.num_prompts, settings.num_warmups)
    handle = await bench.launcher.launch(request)
    bench.markers.add(handle.record.marker)
    try:
        lasted = await _follow(place, handle, reader, server, bench)
    finally:
        survivors = await handle.kill()
        bench.markers.discard(handle.record.marker)
    if survivors:
        raise StopError(
            f"Processes of the load generator that not even SIGKILL ends: {', '.join(map(str, survivors))}.",
            "They usually wait for a driver; look at `dmesg`, and reboot if they stay.",
            pids=survivors,
        )
    if not lasted:
        raise await gone(server)
    return await _judge(place, _Left(result, output, handle.poll()), server, target, bench)


def _clear(*paths: Path) -> None:
    """Of a level that begins anew: what was left of it must not be taken for its result."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StateDirError(
                f"{path} cannot be removed: {error.strerror or error}.", "Remove it by hand.", path=str(path)
            ) from error


async def _follow(place: Place, handle: ServerHandle, reader: OutputReader, server: Server, bench: Bench) -> bool:
    """Until the generator ends, or the server does; whether the server lasted."""
    ended = asyncio.create_task(handle.wait())
    sampling: asyncio.Task[None] | None = None
    taker = SampleTaker(server, bench, lambda samples: place.change(samples=samples))
    looked_at = time.monotonic()
    try:
        while not ended.done():
            await asyncio.wait({ended}, timeout=LOOK_SECONDS)
            progress = await asyncio.to_thread(reader.read)
            if progress != place.level.progress:
                place.change(progress=progress)
            if progress.phase == "running" and sampling is None:
                place.change(began_at=time.time())
                taker.begin()
                sampling = asyncio.create_task(taker.follow(), name="samples of a load test")
            if not server.status.attached and server.status.state is not ServerState.READY:
                return False
            if time.monotonic() - looked_at > GUARDIAN_LOOK_SECONDS:
                looked_at = time.monotonic()
                await asyncio.to_thread(handle.processes)  # a guardian that was killed is replaced
    finally:
        tasks = {task for task in (ended, sampling) if task is not None}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    if sampling is not None:
        await taker.look()  # what came since the last second, and at least one of a level that was over at once
    return True


@dataclass(frozen=True, slots=True)
class _Left:
    """What the generator left."""

    result: Path
    output: Path
    returncode: int | None


async def _judge(place: Place, left: _Left, server: Server, target: Target, bench: Bench) -> bool:
    try:
        found: Result = await asyncio.to_thread(read_result, left.result, place.level)
    except (OSError, ValueError):
        lines = await asyncio.to_thread(last_lines, left.output)
        dataset = place.live.run.settings.dataset_path
        why = explain(lines, left.returncode, tokenizer=target.tokenizer, dataset=dataset)
        place.change(state=LoadState.FAILED, progress=None, error=bench.mask().deep(failure_of(why)))
        return False
    if found.metrics.failed:
        await _require_up(server)
    place.change(
        state=LoadState.FAILED if found.error else LoadState.DONE,
        progress=None,
        metrics=found.metrics,
        ttft_histogram=found.histogram,
        warnings=bench.mask().deep(found.warnings),
        error=bench.mask().deep(found.error),
    )
    return found.error is None


async def _require_up(server: Server) -> None:
    """Where requests failed: raises ``ServerGone`` if the server is the reason."""
    if not server.status.attached:
        await asyncio.sleep(LOOK_SECONDS)  # its end may be noticed a moment after its last answer
        if server.status.state is not ServerState.READY:
            raise await gone(server)
        return
    try:
        await server.client().models()
    except ServerManagerError as error:
        raise ServerGone(error.message, error.next_step, why="server_gone") from error


async def gone(server: Server) -> ServerGone:
    """The error for a server that ended; waits some seconds for what its end tells."""
    with suppress(TimeoutError):
        async with asyncio.timeout(15):
            while (status := server.status).state not in (ServerState.FAILED, ServerState.STOPPED):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    status, end = server.status, server.status.exit
    if status.state is ServerState.FAILED and end is not None:
        return ServerGone(f"{server.name} ended: {end.message}", end.next_step, why="server_gone", exit=end)
    return ServerGone(
        f"{server.name} was stopped or put away while it was measured.", "Repeat the test.", why="server_stopped"
    )


def failure_of(error: ServerManagerError) -> Failure:
    """An error as it is kept: its message, and of its facts what is plain."""
    plain = {name: value for name, value in error.facts.items() if isinstance(value, str | int | float)}
    return Failure(error.message, error.next_step, error.code, plain)
