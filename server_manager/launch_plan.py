"""From a model's spec to the process that will serve it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import psutil

from server_manager.errors import SpecError
from server_manager.launchers.base import LaunchRequest
from server_manager.model_spec import ModelSpec
from server_manager.secret_mask import is_secret
from server_manager.settings import Settings
from server_manager.shell_line import SECRET_FLAGS, shell_line
from server_manager.start_subject import StartSubject

CPU_KV_CACHE_BYTES = "512M"
"""Enough for 23,000 tokens of SmolLM2-135M. With it vLLM also skips its check of the memory that is free, which fails
on every machine that does something else too."""
NOTHING: Mapping[str, object] = MappingProxyType({})
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
NO_BYTES: Mapping[str, int] = MappingProxyType({})
_UNREACHABLE_FLAGS = ("uds", "ssl-keyfile", "ssl-certfile", "root-path", "headless", "grpc")


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """A request with what is shown of it. Made anew for each start, from the model's file as it then is."""

    request: LaunchRequest
    command: str
    """The line for a shell, without secrets."""
    shutdown_timeout: float
    """Seconds that vLLM lets open requests go on after SIGTERM."""
    options: Mapping[str, object] = field(default_factory=dict)
    """The flags, with those that we add, without secrets."""
    subject: StartSubject | None = None
    """What its duration depends on; ``None``: it is not compared with other starts."""
    first_sleep: bool = False
    """Whether it is to sleep and wake once before it is ready, since the first time is slow."""


Planner = Callable[[Callable[[str], None]], Awaitable[LaunchPlan]]
"""Makes the plan of the next start; what it passes to its argument is shown as progress meanwhile."""


def make_plan(
    spec: ModelSpec,
    settings: Settings,
    *,
    model: str,
    cpu_only: bool,
    planned: Mapping[str, object] = NOTHING,
    planned_env: Mapping[str, str] = NO_VARIABLES,
    will_hold: Mapping[str, int] = NO_BYTES,
    switchable: bool = False,
) -> LaunchPlan:
    """The next start of ``spec``. ``model`` is where the files are, if not at ``spec.model``.

    ``planned`` are flags and variables of the memory planner, for what the user leaves open, ``will_hold`` the bytes by
    device that it reckons with; ``switchable``: it is to sleep and wake (on a GPU).

    Raises ``SpecError`` for flags with which we could not reach the server, a missing folder or a taken port.
    """
    for flag in _UNREACHABLE_FLAGS:
        if spec.options.get(flag):
            raise SpecError(
                f"With --{flag} vLLM Deck could not reach {spec.name}.",
                "Remove it from the model's file: servers listen on 127.0.0.1 behind vLLM Deck's own port.",
                key=flag,
                path=spec.path,
                removable=True,
            )
    check_local_folder(spec, model)
    options = dict(spec.options)
    options.pop("host", None)
    key = options.pop("api-key", None)
    api_key = str(key[0] if isinstance(key, list) else key) if key else secrets.token_urlsafe(24)
    secrets_of_options = {
        variable: str(options.pop(flag))
        for flag, variable in SECRET_FLAGS.items()
        # `hf-token: true` is no secret: it has vLLM take the token of `hf auth login`.
        if options.get(flag) is not None and not isinstance(options[flag], bool)
    }
    port = _port(options.pop("port", None), spec)
    if sleeps := switchable and not cpu_only:
        options.setdefault("enable-sleep-mode", True)
    additions = _additions(options, cpu_only=cpu_only, settings=settings)
    for name, value in {**additions, **planned}.items():
        options.setdefault(name, value)
    placed = {"host": "127.0.0.1", "port": port, **options}
    serve_args = replace(spec, model=model, options=placed).serve_args()
    env = {name: value for name, value in {**planned_env, **spec.vllm_env}.items() if not is_secret(name, value)}
    if options.get("enable-sleep-mode"):
        env["VLLM_SERVER_DEV_MODE"] = "1"  # /sleep and /wake_up exist only then; behind our own port nobody else asks
    if cpu_only and options.get("distributed-executor-backend") == "uni":
        env.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    secret_env = {name: value for name, value in spec.vllm_env.items() if is_secret(name, value)}
    secret_env |= {**secrets_of_options, "VLLM_API_KEY": api_key}
    request = LaunchRequest(
        name=spec.name,
        argv=(*settings.vllm_command, "serve", *serve_args),
        env=env,
        secret_env=secret_env,
        log_path=settings.logs_dir / f"{spec.name}.log",
        port=port,
        will_hold=will_hold,
    )
    return LaunchPlan(
        request,
        command=shell_line(("vllm", "serve", *serve_args), request.env),
        shutdown_timeout=_seconds(options["shutdown-timeout"], settings.shutdown_timeout),
        options=options,
        first_sleep=sleeps and options["enable-sleep-mode"] is True,
    )


def _seconds(value: object, otherwise: float) -> float:
    """A flag's value as a number; ``otherwise`` where it is none, of which vLLM's parser tells the user."""
    try:
        return float(str(value))
    except ValueError:
        return otherwise


def check_local_folder(spec: ModelSpec, model: str) -> None:
    """Raises ``SpecError`` where a local model is not there; vLLM would take 8 s and say something about repo ids."""
    if not model.startswith(("/", "./", "../", "~")):
        return
    path = Path(model).expanduser()
    where = f" (from {spec.path})" if spec.path else ""
    if not path.exists():
        raise SpecError(f"There is no folder {path}{where}.", "Correct `model`, or put the files there.", key="model")
    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "params.json")):
        raise SpecError(
            f"The folder {path} holds no model: it has no config.json{where}.",
            "Point `model` at the folder with config.json and the *.safetensors files.",
            key="model",
        )


def _additions(options: Mapping[str, object], *, cpu_only: bool, settings: Settings) -> dict[str, object]:
    """Flags that we add where the user has not set them."""
    added: dict[str, object] = {
        "shutdown-timeout": int(settings.shutdown_timeout),
        # Our own polling would otherwise be most of the log.
        "disable-access-log-for-endpoints": "/health,/metrics,/v1/models",
    }
    if not cpu_only:
        return added
    if not {"optimization-level", "compilation-config", "O"} & options.keys():
        added["enforce-eager"] = (
            True  # compiling takes over a minute at each start: vLLM cannot load its cache on a CPU
        )
    if not {"gpu-memory-utilization", "device-memory-utilization"} & options.keys():
        added["kv-cache-memory-bytes"] = CPU_KV_CACHE_BYTES
    if str(options.get("tensor-parallel-size", 1)) == "1" and str(options.get("pipeline-parallel-size", 1)) == "1":
        # As on CUDA with one GPU. On a CPU vLLM takes it only with VLLM_ENABLE_V1_MULTIPROCESSING=0; measured with
        # SmolLM2-135M on two cores: ready after 17 s in place of 22 s, 0.6 GB less, and no token per second less.
        added["distributed-executor-backend"] = "uni"
    return added


def _port(wanted: object, spec: ModelSpec) -> int:
    """A free port on the loopback address; the one of the model's file, if it names one."""
    if wanted is None:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])
    try:
        port = int(str(wanted))
    except ValueError:
        port = 0
    if not 0 < port < 65536:
        raise SpecError(
            f"{wanted!r} is not a port.", "Use a number from 1024 to 65535.", key="port", path=spec.path, removable=True
        )
    # By connecting: a server that sets SO_REUSEPORT would let a second one bind and take half of its requests.
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise SpecError(
                f"Port {port}, which {spec.name} asks for, is taken{_owner(port)}.",
                "Remove `port` from the model's file to get a free one.",
                key="port",
                path=spec.path,
                removable=True,
            )
    return port


def _owner(port: int) -> str:
    """' by NAME (pid N)', or nothing where the system does not tell."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""
