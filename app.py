"""Starts vLLM Deck: reads the command line, puts the parts together and serves the page."""

from __future__ import annotations

import logging
import secrets
import socket
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server_manager.app_address import (
    lock_state_dir,
    prepare_state_dir,
    remove_address,
    session_key,
    write_address,
)
from server_manager.command_line import ask_password, page_url, parse, run_command, settings_from
from server_manager.errors import ServerManagerError, SpecError


def listen(host: str, port: int) -> socket.socket:
    """The page's own port, taken before anything else is done. Raises ``SpecError`` where it is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise SpecError(
            f"{host} port {port} cannot be used: {error.strerror}.", "Choose another with --port (make run PORT=…)."
        ) from error
    return listener


def serve(args: Namespace) -> None:
    """Serves until SIGINT or SIGTERM. Everything that was started is ended then."""
    settings = settings_from(args)
    prepare_state_dir(settings.state_dir)
    lock = lock_state_dir(settings.state_dir)
    listener = listen(args.host, args.port)
    # Only here: they take seconds to import, and the commands above need none of it.
    import uvicorn  # noqa: PLC0415

    from server_manager import composition  # noqa: PLC0415
    from webui import Access, AppContext, build_web_app, read_users  # noqa: PLC0415

    token = secrets.token_urlsafe(24)
    access = Access(read_users(args.auth) if args.auth else None, session_key(settings.state_dir), token)
    parts = composition.compose(settings)
    context = AppContext(settings, parts.manager, parts.sampler, parts.conversations, parts.chat, access)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        async with parts.running(start=args.start, no_start=args.no_start):
            url = page_url(args.host, args.port)
            write_address(settings.state_dir, url, token)
            print(f"vLLM Deck is at {url}", flush=True)
            try:
                yield
            finally:
                remove_address(settings.state_dir)

    # An open page holds a connection for good: without a limit uvicorn would wait for it.
    config = uvicorn.Config(
        build_web_app(context, running), log_level="warning", timeout_graceful_shutdown=2, lifespan="on"
    )
    uvicorn.Server(config).run(sockets=[listener])
    del lock


def main() -> int:
    """The exit code: 0, or 1 with one plain message."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    args = parse()
    try:
        if args.command == "add-user":
            from webui.access import hash_password  # noqa: PLC0415  # see serve()

            with args.users_file.open("a", encoding="utf-8") as users:
                args.users_file.chmod(0o600)
                users.write(f"{args.name} {args.role} {hash_password(ask_password())}\n")
        elif args.command:
            return run_command(args)
        else:
            serve(args)
    except ServerManagerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
