"""The commands about users and their API keys; they work on files alone."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from webui.api_keys import add_key, list_keys, revoke_key
from webui.users import add_user


def run_user_command(args: Namespace, ask_password: Callable[[], str]) -> None:
    """Runs one of ``USER_COMMANDS``. Raises ``SpecError``."""
    match args.command:
        case "add-user":
            add_user(args.users_file, args.name, args.role, ask_password())
        case "add-key":
            print(add_key(args.users_file, args.name))
        case "list-keys":
            for key in list_keys(args.users_file):
                print(f"sk-deck-{key.id}…  {key.name}  {key.made_on}")
        case "revoke-key":
            key = revoke_key(args.users_file, args.name)
            print(f"sk-deck-{key.id}… of {key.name} is revoked.")
