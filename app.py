"""Starts vLLM Deck: reads the command line, puts the parts together and serves the page."""

from __future__ import annotations

import gc
import secrets
import signal
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server_manager.app_address import listen, lock_state_dir, prepare_state_dir, published, session_key
from server_manager.app_log import log_to
from server_manager.command_line import USER_COMMANDS, ask_password, page_url, parse, piped, run_command, settings_from
from server_manager.errors import ServerManagerError


def serve(args: Namespace) -> int:
    """Serves until SIGINT or SIGTERM. Everything that was started is ended then. Returns the exit code."""
    settings = settings_from(args)
    prepare_state_dir(settings.state_dir)
    lock = lock_state_dir(settings.state_dir)
    log_to(settings.state_dir)
    key = session_key(settings.state_dir)
    listener = listen(args.host, args.port)
    url, token = page_url(args.host, args.port), secrets.token_urlsafe(24)
    with published(settings.state_dir, url, token):
        # What is imported and built here stays for good: the garbage collector would look through it again and again,
        # which takes a sixth of the start, and later holds up the chats.
        gc.disable()
        # Only here: they take seconds to import, and the commands need none of it.
        import uvicorn  # noqa: PLC0415

        from server_manager import composition  # noqa: PLC0415
        from webui import Access, AppContext, import_gradio  # noqa: PLC0415

        import_gradio()
        from webui.web_app import build_web_app  # noqa: PLC0415

        access = Access.open(args.auth, key, token)
        parts = composition.compose(settings)
        context = AppContext(
            settings, parts.manager, parts.sampler, parts.conversations, parts.chat, access,
            parts.leftovers, parts.ledger, parts.load_tests, parts.notices,
        )  # fmt: skip

        @asynccontextmanager
        async def running() -> AsyncIterator[None]:
            async with parts.running(start=args.start, no_start=args.no_start):
                print(f"vLLM Deck is at {url}", flush=True)
                yield

        # An open page holds a connection for good: without a limit uvicorn would wait for it.
        config = uvicorn.Config(
            build_web_app(context, running), log_level="warning", timeout_graceful_shutdown=2, lifespan="on"
        )
        server = uvicorn.Server(config)
        gc.freeze()
        gc.enable()
        server.run(sockets=[listener])
    del lock
    return 0 if server.started else 1


def main() -> int:
    """The exit code: 0, 1 with one plain message, or 130 after Ctrl+C, as shells count it."""
    # uvicorn sends itself the signal again when it is done: it must not end the process before ours is cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # And asyncio must not make it the cancelling of a task that has just ended: then nobody would hear of it.
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    args = parse()
    try:
        if args.command == "explain":
            from server_manager.diagnosis.card import explain  # noqa: PLC0415  # the others need none of it

            return explain(args.log)
        if args.command in USER_COMMANDS:
            from webui import run_user_command  # noqa: PLC0415  # see serve()

            run_user_command(args, ask_password)
        elif args.command:
            return run_command(args)
        else:
            return serve(args)
    except ServerManagerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(piped(main))
