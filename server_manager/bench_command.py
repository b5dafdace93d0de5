"""``python app.py bench``: a model ladder for CI, by the app that is running or, where none is, by its parts alone."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from server_manager.app_address import lock_state_dir, prepare_state_dir
from server_manager.app_log import log_to
from server_manager.bench_arguments import bench_settings
from server_manager.bench_report import Progress, Screen, failure_words, make_folder, succeeded, write_files
from server_manager.errors import ServerManagerError
from server_manager.load_test.run import LoadRun, LoadState
from server_manager.load_test.settings import settings_from as load_settings_from
from server_manager.load_test.store import decode
from server_manager.settings import Settings

_LOOK_SECONDS = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ask(Protocol):
    """The app that is running, by its REST interface."""

    def __call__(self, method: str, path: str, *, body: object = None) -> Any: ...


def run_bench(args: Namespace, ask: Ask | None, settings: Callable[[], Settings]) -> int:
    """Measures, prints and writes. The exit code: 0, or 1 where a model failed or answered nothing; 128 + the signal
    that ended it. Raises ``ServerManagerError`` for what cannot be begun.
    """
    for number in _SIGNALS:  # an app that is asked to end has the exit code 0, a measurement has not
        signal.signal(number, _end)
    make_folder(args.out)
    screen = Screen()
    if ask is not None:
        return _through_app(args, ask, screen)
    return asyncio.run(_without_app(args, replace(settings(), keep_servers=False), screen))


def _finish(run: LoadRun, args: Namespace, screen: Screen) -> int:
    """The last lines and the files."""
    paths = write_files(run, args.out)
    if run.error is not None and all(row.error != run.error for row in run.rows):
        screen.line(f"FAILED: {failure_words(run.error)}")
    screen.line(f"wrote {', '.join(path.name for path in paths)} into {args.out}")
    if succeeded(run):
        return 0
    failed = [row.model for row in run.rows if row.state is not LoadState.DONE]
    screen.line(f"not measured: {', '.join(failed)}" if failed else "no request was completed")
    return 1


class _Ended(SystemExit):
    """By a signal."""


def _end(number: int, frame: object) -> None:
    raise _Ended(128 + number)


def _through_app(args: Namespace, ask: Ask, screen: Screen) -> int:
    form = {"servers": args.names, "settings": bench_settings(args), "name": args.run_name, "ladder": True}
    progress = Progress(screen)
    # Not between the run's beginning and our knowing its name: nobody could stop it then.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    run_id = ask("POST", "/api/load-tests", body=form)["id"]
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        while True:
            found = ask("GET", f"/api/load-tests/{run_id}")
            position = found["position"]
            run = _run_of(found)
            progress.show(run, position)
            if run.is_over:
                break
            time.sleep(_LOOK_SECONDS)
    except _Ended as ended:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        screen.line("stopping …")
        with suppress(ServerManagerError):  # it is over just now
            ask("POST", f"/api/load-tests/{run_id}/stop")
        _finish(_exported(ask, run_id), args, screen)
        return int(str(ended.code))
    return _finish(_exported(ask, run_id), args, screen)


def _exported(ask: Ask, run_id: str) -> LoadRun:
    return _run_of(ask("GET", f"/api/load-tests/{run_id}/export?format=json"))


def _run_of(found: dict[str, Any]) -> LoadRun:
    """From what the app shows; a card's translations are its page's."""
    for row in found["rows"]:
        if row["diagnosis"]:
            row["diagnosis"].setdefault("title_phrases", [])
            row["diagnosis"].setdefault("remedy_phrases", [])
    return decode(json.dumps(found).encode())


async def _without_app(args: Namespace, settings: Settings, screen: Screen) -> int:
    # It takes the whole manager along: not before it is needed.
    from server_manager.composition import compose  # noqa: PLC0415

    wanted = load_settings_from(bench_settings(args))
    prepare_state_dir(settings.state_dir)
    lock = lock_state_dir(settings.state_dir)
    log_to(settings.state_dir)
    asked: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(number: int) -> None:
        if not asked.done():
            screen.line("stopping …")
            asked.set_result(128 + number)

    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    parts = compose(settings)
    async with parts.running(start=None, no_start=True):
        tests, progress = parts.load_tests, Progress(screen)
        run = await tests.begin(args.names, wanted, args.run_name, ladder=True)
        while not run.is_over and not asked.done():
            progress.show(run, tests.position(run.id))
            await asyncio.wait({asked}, timeout=_LOOK_SECONDS)
            run = await tests.get(run.id)
        if not run.is_over:
            run = await tests.stop(run.id)
        progress.show(run, None)
    del lock
    code = _finish(run, args, screen)
    return asked.result() if asked.done() else code
