"""What the generator is pointed at: a server's address, its name for requests, and where its tokenizer is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from server_manager.client import ServedModel
from server_manager.errors import LoadTestError, ServerManagerError, SpecError
from server_manager.load_test.settings import LoadSettings
from server_manager.manager import Server, ServerManager
from server_manager.model_spec import ModelSpec
from server_manager.secret_mask import is_secret
from server_manager.shell_line import parse_shell_line

_OF_HUBS = ("HF_", "HUGGING", "TRANSFORMERS_", "MODELSCOPE_", "VLLM_USE_MODELSCOPE", "SSL_CERT_", "REQUESTS_CA_")
"""How the variables begin that say where a tokenizer comes from; a server's others are not the generator's."""
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Target:
    """One server that is ready."""

    base_url: str
    model: str
    """What requests send as ``model``."""
    tokenizer: str
    max_model_len: int | None
    api_key: str | None = field(default=None, repr=False)
    flags: tuple[str, ...] = ()
    """What the tokenizer needs besides."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables of the model for the generator; none of them secret."""
    secret_env: Mapping[str, str] = field(default_factory=dict, repr=False)


async def target_of(server: Server, settings: LoadSettings, manager: ServerManager) -> Target:
    """Raises ``ChatError`` where the server does not answer, ``LoadTestError`` where nothing is served."""
    client = server.client()
    served = await client.models()
    if not served:
        raise LoadTestError(f"{server.name} serves no model.", "Look at its /v1/models.", why="no_model")
    spec = None if server.status.attached else _spec_of(server, manager)
    variables = spec.vllm_env.items() if spec else ()
    env = {name: value for name, value in variables if name.startswith(_OF_HUBS) or name.upper() in _PROXIES}
    return Target(
        client.base_url,
        served[0].id,
        tokenizer_for(settings, spec, served[0]),
        served[0].max_model_len,
        client.api_key,
        _tokenizer_flags(spec) if spec and not settings.tokenizer else (),
        {name: value for name, value in env.items() if not is_secret(name, value)},
        {name: value for name, value in env.items() if is_secret(name, value)},
    )


def tokenizer_for(settings: LoadSettings, spec: ModelSpec | None, served: ServedModel) -> str:
    """A folder or hub id: what the settings say, else what the server itself uses, else what it says that it serves.

    Raises ``LoadTestError`` for a folder that is not here.
    """
    if settings.tokenizer:
        found = os.path.expanduser(settings.tokenizer)
    elif spec is not None:
        found = os.path.expanduser(str(spec.options.get("tokenizer") or spec.model))
    else:
        # The path that somebody else's server was given is mostly on another machine.
        root = served.root or ""
        found = root if root and (Path(root).is_dir() or not root.startswith(("/", "~", "."))) else served.id
    if found.startswith(("/", "./", "../")) and not Path(found).exists():
        raise no_tokenizer(found, f"There is no folder {found}.")
    return found


def no_tokenizer(tokenizer: str, reason: str) -> LoadTestError:
    """The generator counts and makes prompts with the model's tokenizer; without it nothing can be measured."""
    return LoadTestError(
        f"The generator cannot get the tokenizer {tokenizer}: {reason}",
        "Set the tokenizer to the folder with the model's files on this machine, or to its id on the hub "
        "(a gated one needs HF_TOKEN).",
        why="tokenizer",
        tokenizer=tokenizer,
        reason=reason,
    )


def _spec_of(server: Server, manager: ServerManager) -> ModelSpec | None:
    """What the server was started with, with the secrets that its model's file has now; ``None`` where neither can be
    read."""
    try:
        saved: ModelSpec | None = manager.local_files(manager.catalogue.get(server.name))
    except ServerManagerError:  # the file is gone since
        saved = None
    try:
        started = parse_shell_line(server.status.command, name=server.name)
    except SpecError:
        return saved
    secrets = {name: value for name, value in (saved.env if saved else {}).items() if is_secret(name, value)}
    return ModelSpec(server.name, started.model, started.options, {**started.env, **secrets})


def _tokenizer_flags(spec: ModelSpec) -> tuple[str, ...]:
    mode = spec.options.get("tokenizer-mode")
    flags = ("--tokenizer-mode", str(mode)) if mode else ()
    return (*flags, "--trust-remote-code") if spec.trust_remote_code else flags
