"""All settings of the app in one frozen object; the only reader of our own environment variables."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from server_manager.errors import SpecError


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things lie and how long we wait. Durations are in seconds."""

    state_dir: Path
    """Logs, handle records, keys, the app's own address. Created with mode 0700."""
    models_dir: Path
    """The user's model files; those shipped with the app lie in ``server_manager/catalogue``."""
    vllm_command: tuple[str, ...]
    """What is put before ``serve …``; by default the module run by ``DECK_VLLM_PYTHON`` or our own interpreter."""
    keep_servers: bool = False
    attach: Mapping[str, str] = field(default_factory=dict)
    """Servers of others, name to base URL."""
    attach_api_key: str | None = field(default=None, repr=False)
    """Sent to all of them (``DECK_ATTACH_API_KEY``)."""
    sample_interval: float = 1.0
    history_samples: int = 600
    health_interval: float = 0.25
    """Between two looks at ``/health`` while a server starts."""
    stall_after: float = 600.0
    """A start fails when neither its log nor its processor time has moved for so long."""
    shutdown_timeout: float = 10.0
    """Given to vLLM as ``--shutdown-timeout``: how long open requests may go on after a stop."""
    kill_after: float = 5.0
    """How much longer than ``shutdown_timeout`` we wait before SIGKILL."""
    switch_patience: float = 60.0
    """How long answers may go on when their server has to make room for another one."""
    idle_interval: float = 5.0
    """Between two looks for servers that nobody uses."""
    log_part_bytes: int = 32 * 2**20
    """A server's log that is longer is rotated; three older parts of this size are kept."""
    logs_total_bytes: int = 2**30
    """Of all logs together. Those of models that were not used for longest go first."""
    log_interval: float = 5.0
    """Between two looks at the sizes of the logs."""

    chats_per_user: int = 16
    """How many answers on the page one user may have made at once, where there is a login (``DECK_CHATS_PER_USER``).
    Without one all are the same user, whose machine it is."""

    gateway_wait: float = 600.0
    """How long a request to ``/v1`` waits for its server (``DECK_GATEWAY_WAIT``)."""
    gateway_silence: float = 4.0
    """How long a request that streams waits in silence, before it gets its head and comments."""
    gateway_comment_interval: float = 10.0
    gateway_body_bytes: int = 64 * 2**20
    """The largest request that ``/v1`` takes; it is held in memory."""

    @property
    def logs_dir(self) -> Path:
        return self.state_dir / "logs"

    @property
    def records_dir(self) -> Path:
        return self.state_dir / "servers"

    @property
    def start_history_path(self) -> Path:
        return self.state_dir / "start-history.json"

    @property
    def conversations_path(self) -> Path:
        return self.state_dir / "conversations.db"

    @property
    def load_tests_dir(self) -> Path:
        return self.state_dir / "load-tests"

    @property
    def memory_history_path(self) -> Path:
        return self.state_dir / "memory-history.json"

    @property
    def hub_sizes_path(self) -> Path:
        return self.state_dir / "hub-sizes.json"

    @property
    def cache_dir(self) -> Path:
        """Converted models and compile caches: may be deleted at any time, costs only time to make again."""
        return self.state_dir / "cache"


def _xdg(env: Mapping[str, str], variable: str, fallback: str) -> Path:
    """A folder of the XDG base directory specification."""
    value = env.get(variable, "")
    return Path(value) if os.path.isabs(value) else Path.home() / fallback


def default_state_dir(env: Mapping[str, str] = os.environ) -> Path:
    """``$DECK_STATE_DIR``, else ``$XDG_STATE_HOME/vllm-deck``, else ``~/.local/state/vllm-deck``."""
    if chosen := env.get("DECK_STATE_DIR"):
        return Path(chosen).expanduser()
    return _xdg(env, "XDG_STATE_HOME", ".local/state") / "vllm-deck"


def default_models_dir(env: Mapping[str, str] = os.environ) -> Path:
    """``$DECK_MODELS_DIR``, else ``$XDG_CONFIG_HOME/vllm-deck/models``, else ``~/.config/vllm-deck/models``."""
    if chosen := env.get("DECK_MODELS_DIR"):
        return Path(chosen).expanduser()
    return _xdg(env, "XDG_CONFIG_HOME", ".config") / "vllm-deck" / "models"


def attach_api_key(env: Mapping[str, str] = os.environ) -> str | None:
    """``$DECK_ATTACH_API_KEY``."""
    return env.get("DECK_ATTACH_API_KEY") or None


def gateway_wait(env: Mapping[str, str] = os.environ) -> float:
    """``$DECK_GATEWAY_WAIT`` in seconds. Raises ``SpecError`` where that is no number above 0."""
    text = env.get("DECK_GATEWAY_WAIT") or "600"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise SpecError(f"DECK_GATEWAY_WAIT is {text!r}.", "Set it to a number of seconds.", key="DECK_GATEWAY_WAIT")
    return seconds


def chats_per_user(env: Mapping[str, str] = os.environ) -> int:
    """``$DECK_CHATS_PER_USER``. Raises ``SpecError`` where that is no whole number above 0."""
    text = env.get("DECK_CHATS_PER_USER") or "16"
    if not text.isdecimal() or int(text) < 1:
        raise SpecError(
            f"DECK_CHATS_PER_USER is {text!r}.", "Set it to a number of answers at once.", key="DECK_CHATS_PER_USER"
        )
    return int(text)


def default_vllm_command(env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """How vLLM's command line is run.

    As a module, so that it works in an environment without the ``vllm`` script on the PATH; ``DECK_VLLM_PYTHON``
    names the interpreter of another environment.
    """
    return (env.get("DECK_VLLM_PYTHON") or sys.executable, "-m", "vllm.entrypoints.cli.main")
