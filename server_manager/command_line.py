"""The command line: what can be asked for, and the commands that talk to the app that is running."""

from __future__ import annotations

import argparse
import getpass
import ipaddress
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from server_manager.app_address import read_address
from server_manager.bench_arguments import add_bench
from server_manager.errors import ServerManagerError, SpecError, UnknownModel
from server_manager.log_command import print_log
from server_manager.model_spec import check_name
from server_manager.settings import (
    Settings,
    attach_api_key,
    chats_per_user,
    default_models_dir,
    default_state_dir,
    default_vllm_command,
    gateway_wait,
)
from server_manager.smoke_command import run_smoke
from server_manager.start_report import phase_line, wait_for_start

DEFAULT_PORT = 7860
USER_COMMANDS = {
    "add-user": "add a line to the file of users, asking for the password",
    "add-key": "make an API key for a user, and print it once",
    "list-keys": "who has which API keys (not the keys themselves)",
    "revoke-key": "make an API key useless, at once",
}
"""They work on the file of users and those beside it; no app need be running."""
_MOST_LINES = 20_000


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the arguments; ends the process with a message where they make no sense."""
    parser = argparse.ArgumentParser(
        prog="app.py", description="One page to run vLLM on your own GPUs. Without a command it serves the page."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="port (default: %(default)s)")
    parser.add_argument("--models-dir", type=Path, default=default_models_dir(), help="your model files (%(default)s)")
    parser.add_argument("--state-dir", type=Path, default=default_state_dir(), help="logs and state (%(default)s)")
    first = parser.add_mutually_exclusive_group()
    first.add_argument("--start", metavar="NAME", help="model to start first (default: the one used last)")
    first.add_argument("--no-start", action="store_true", help="start no model")
    parser.add_argument(
        "--attach", metavar="NAME=URL", type=_attachment, action="append", default=[], help="a server run by others"
    )
    parser.add_argument("--keep-servers", action="store_true", help="servers go on when the app ends")
    parser.add_argument("--auth", type=Path, metavar="FILE", help="users who may log in (see add-user)")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    # Also behind the command, where most people would write it.
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--state-dir", type=Path, default=argparse.SUPPRESS, help="that of the app that is running")
    commands.add_parser("status", help="what is up, in the app that is running", parents=[folder])
    for name, text in (("start", "start a model"), ("stop", "stop a model"), ("logs", "print a server's log")):
        command = commands.add_parser(name, help=text, parents=[folder])
        command.add_argument("name")
        if name == "logs":
            command.add_argument("--tail", type=_lines, default=200, help="lines (default: %(default)s)")
            command.add_argument("--search", metavar="TEXT", default="", help="only lines with this text")
            command.add_argument("--previous", action="store_true", help="of the run before")
            command.add_argument("--follow", action="store_true", help="go on with what is logged from now on")
        if name == "start":
            command.add_argument("--wait", action="store_true", help="show the phases until it is ready or has failed")
    smoke = commands.add_parser(
        "smoke", help="see whether a model talks sense, starting it if need be", parents=[folder]
    )
    smoke.add_argument("name")
    leftovers = commands.add_parser(
        "leftovers", help="what servers of a dead app have left on this machine", parents=[folder]
    )
    leftovers.add_argument("names", nargs="*", metavar="NAME", help="only those of these servers (default: all)")
    leftovers.add_argument("--reclaim", action="store_true", help="end it, and tell what that gave back")
    add_bench(commands, [folder])
    explain = commands.add_parser("explain", help="say why a server failed, from its log (of any vLLM, run by anyone)")
    explain.add_argument("log", metavar="LOGFILE", help="a file, or - for standard input")
    for name, text in USER_COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name != "list-keys":
            command.add_argument("name", metavar="ID" if name == "revoke-key" else "NAME")
        if name == "add-user":
            command.add_argument("--role", choices=("user", "operator"), default="user")
        command.add_argument("--auth", type=Path, metavar="FILE", required=True, dest="users_file")
    return parser.parse_args(argv)


def settings_from(args: argparse.Namespace) -> Settings:
    """The app's settings. Raises ``SpecError`` for an address that needs a login and has none."""
    names = [name for name, _ in args.attach]
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"--attach {name}=… is given twice.", "Give each its own name.", key="attach")
    if args.auth is None and not _is_loopback(args.host):
        raise SpecError(
            f"{args.host} can be reached from other machines, and nobody would have to log in.",
            "Add --auth FILE (make it with: python app.py add-user NAME --role operator --auth FILE), "
            "or leave --host away and use an SSH tunnel.",
        )
    return Settings(
        state_dir=args.state_dir.expanduser().absolute(),
        models_dir=args.models_dir.expanduser().absolute(),
        vllm_command=default_vllm_command(),
        keep_servers=args.keep_servers,
        attach=dict(args.attach),
        attach_api_key=attach_api_key(),
        gateway_wait=gateway_wait(),
        chats_per_user=chats_per_user(),
    )


def run_command(args: argparse.Namespace) -> int:
    """Runs a command, all but ``leftovers`` and ``bench`` against the app that is running; returns the exit code."""
    if args.command == "leftovers":
        return _leftovers(args.state_dir.expanduser().absolute(), args.names, reclaim=args.reclaim)
    if args.command == "bench":
        return _bench(args)
    app = _RunningApp(args.state_dir.expanduser().absolute())
    if args.command == "status":
        for entry in app.ask("GET", "/api/models")["models"]:
            status = entry["status"]
            if status["state"] != "stopped" or status["attached"]:
                where = phase_line(status) or status["base_url"] or ""
                print(f"{entry['name']:40} {status['state']:9} {where}")
        print(f"vLLM Deck: {app.url}")
    elif args.command == "logs":
        print_log(lambda path: app.ask("GET", path), args)
    elif args.command == "smoke":
        return run_smoke(app.ask, args.name)
    else:
        status = app.ask("POST", f"/api/servers/{quote(args.name, safe='')}/{args.command}")
        print(f"{args.name}: {status['state']}", flush=True)
        if args.command == "start" and args.wait:
            wait_for_start(lambda: app.ask("GET", f"/api/servers/{quote(args.name, safe='')}"))
    return 0


def _leftovers(state_dir: Path, names: Sequence[str], *, reclaim: bool) -> int:
    from server_manager.leftover_command import run_leftovers  # noqa: PLC0415  # start-up time of the other commands

    return run_leftovers(_RunningApp(state_dir).ask if read_address(state_dir) else None, names, reclaim=reclaim)


def _bench(args: argparse.Namespace) -> int:
    from server_manager.bench_command import run_bench  # noqa: PLC0415  # start-up time of the other commands

    state_dir = args.state_dir.expanduser().absolute()
    ask = _RunningApp(state_dir).ask if read_address(state_dir) else None
    return run_bench(args, ask, lambda: settings_from(args))


def ask_password() -> str:
    """A new password, asked for twice. Raises ``SpecError`` where they differ or it is short."""
    if not sys.stdin.isatty():
        password = again = sys.stdin.readline().rstrip("\n")
    else:
        password, again = getpass.getpass("Password: "), getpass.getpass("Again: ")
    if password != again:
        raise SpecError("The two passwords differ.", "Try again.")
    if len(password) < 8:
        raise SpecError("The password is shorter than 8 characters.", "Choose a longer one.")
    return password


class _RunningApp:
    """The app that uses a state folder, by its REST interface."""

    def __init__(self, state_dir: Path) -> None:
        address = read_address(state_dir)
        if address is None:
            raise UnknownModel(f"No vLLM Deck is running with the state folder {state_dir}.", "Start it with: make run")
        self.url: str = address["url"]
        self._token: str = address["token"]

    def ask(self, method: str, path: str, timeout: float = 120, *, body: object = None) -> Any:
        """The answer of a route within ``timeout`` seconds; ``body`` is sent as JSON.

        Raises ``ServerManagerError`` with the app's own message.
        """
        headers = {"Authorization": f"Bearer {self._token}"}
        data = None
        if body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, data, headers, method=method)
        # Never through a proxy of the environment: the app is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout) as response:
                text = response.read().decode()
                return json.loads(text) if "json" in response.headers.get("Content-Type", "") else text
        except urllib.error.HTTPError as error:
            try:
                found = json.loads(error.read())["error"]
            except (ValueError, KeyError):
                found = {"message": f"The app answered with HTTP status {error.code}.", "next_step": ""}
            raise ServerManagerError(found["message"], found["next_step"]) from error
        except OSError as error:
            raise ServerManagerError(f"vLLM Deck at {self.url} does not answer: {error}.", "Is it still up?") from error


def page_url(host: str, port: int) -> str:
    """What to open in a browser on this machine."""
    bare = host.strip("[]")
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(bare, f"[{bare}]" if ":" in bare else bare)
    return f"http://{shown}:{port}/"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use a number from 1 to 65535")
    return int(text)


def _lines(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _MOST_LINES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_LINES}")
    return int(text)


def _attachment(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    try:
        check_name(name)  # it becomes part of URLs
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(url)
    except SpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    except ValueError as error:  # also for a port that is no port
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=URL, for example remote=http://127.0.0.1:8000"
        ) from error
    return name, url


def piped(main: Callable[[], int]) -> int:
    """The exit code of ``main``; 0 where nobody reads all that it says (`… | head`), which is no mistake."""
    try:
        code = main()
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends
        return 0
    return code
