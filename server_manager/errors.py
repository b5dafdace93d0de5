"""Every error that this package raises on purpose.

    ServerManagerError
    ├── SpecError              a model file, a flag or a pasted command is wrong
    ├── UnknownModel           no model of that name in the catalogue
    ├── UnknownLeftover        nothing of that id is left over (any more)
    ├── ManagerClosed          the app is shutting down
    ├── TooManyAnswers         the user has as many answers going on as one may have
    ├── NotKept                no such conversation, turn, image or preset (any more)
    ├── UnknownLoadTest        no load test of that id (any more)
    ├── LoadTestError          a load test, or a part of it, did not work
    ├── NotAllowed             the request makes no sense for this server (stop on an attached one, …)
    ├── StateDirError          the state folder cannot be written (full disk, permissions, in use)
    ├── InsufficientMemory     a start was refused because the memory is not there
    ├── LaunchError            the process could not be created at all
    ├── StartError             the server did not become ready
    │   ├── StartStalled       nothing moved for too long
    │   ├── StartAborted       a stop was asked for while it started
    │   └── ExitedDuringStart  vLLM ended before it served
    ├── StopError              something of the server outlived SIGKILL
    ├── ChatError              a chat request failed
    │   ├── ServerUnreachable  no connection, or it broke off
    │   ├── RequestRejected    the server answered with an error
    │   └── ContextExceeded    the conversation is longer than the model's context
    ├── GatewayRefusal         a request to /v1 is refused (in gateway_errors.py, with its HTTP status)
    └── TelemetryError         a probe failed as a whole (single figures that are unknown are ``None`` instead)

A message says what happened; ``next_step`` says what to do about it. ``str(error)`` is both, ready for a person.
"""

from __future__ import annotations

from typing import ClassVar


class ServerManagerError(Exception):
    """Base of all of them.

    ``code`` is stable and machine-readable (REST answers and tests use it); ``facts`` holds the numbers that the
    message was made from, so that nobody has to parse the message.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, next_step: str = "", **facts: object) -> None:
        super().__init__(message, next_step)
        self.message = message
        self.next_step = next_step
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}".strip()


class SpecError(ServerManagerError):
    """A model file, flag or command is wrong. Facts: ``path``, ``line`` (1-based) and ``key`` where known.

    ``removable`` is true where leaving ``key`` out mends it.
    """

    code = "invalid_model"


class UnknownModel(ServerManagerError):
    """No model of that name. Facts: ``name``, ``known``."""

    code = "unknown_model"


class UnknownLeftover(ServerManagerError):
    """Nothing of that id is left over, or no longer. Facts: ``id``."""

    code = "unknown_leftover"


class ManagerClosed(ServerManagerError):
    """The app is shutting down and starts nothing any more."""

    code = "closing"


class NotAllowed(ServerManagerError):
    """The request makes no sense for this server in this state."""

    code = "not_allowed"


class TooManyAnswers(ServerManagerError):
    """The user has as many answers going on as one may have. Facts: ``most``."""

    code = "too_many_answers"


class NotKept(ServerManagerError):
    """Of the conversations that are kept, there is none (or no turn, image, preset) of that id (any more)."""

    code = "not_kept"


class UnknownLoadTest(ServerManagerError):
    """There is no load test of that id, or it was deleted. Facts: ``id``."""

    code = "unknown_load_test"


class LoadTestError(ServerManagerError):
    """A load test, or a part of it, did not work.

    Facts: ``why``, a stable name of the reason, and the numbers and names that the message has.
    """

    code = "load_test"


class StateDirError(ServerManagerError):
    """The state folder cannot be used. Facts: ``path``, ``errno``."""

    code = "state_dir"


class InsufficientMemory(ServerManagerError):
    """A start was refused. Facts: ``requested_bytes``, ``free_bytes``, ``total_bytes`` of the device."""

    code = "insufficient_memory"


class LaunchError(ServerManagerError):
    """The process could not be created. Facts: ``argv``, ``errno``."""

    code = "launch_failed"


class StartError(ServerManagerError):
    """The server did not become ready. Facts: ``name``, and ``exit`` (a ``ServerExit``) where the process ended."""

    code = "start_failed"


class StartStalled(StartError):
    """Nothing moved for too long. Facts: ``phase``, ``idle_s``."""

    code = "start_stalled"


class StartAborted(StartError):
    """A stop was asked for while it started."""

    code = "start_aborted"


class ExitedDuringStart(StartError):
    """vLLM ended before it served."""

    code = "exited_during_start"


class StopError(ServerManagerError):
    """Something outlived SIGKILL. Facts: ``pids``."""

    code = "stop_failed"


class ChatError(ServerManagerError):
    """A chat request failed."""

    code = "chat_failed"


class ServerUnreachable(ChatError):
    """No connection to the server, or it broke off. Facts: ``base_url``."""

    code = "server_unreachable"


class RequestRejected(ChatError):
    """The server answered with an error. Facts: ``status`` (HTTP), ``type``."""

    code = "request_rejected"


class ContextExceeded(ChatError):
    """The conversation does not fit. Facts: ``prompt_tokens`` (at least), ``max_model_len``, both in tokens."""

    code = "context_exceeded"


class TelemetryError(ServerManagerError):
    """A probe failed as a whole."""

    code = "telemetry"
