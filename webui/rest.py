"""The REST interface for scripts and for the page's own figures. Its documentation is at ``/docs``.

Whatever looks at the manager or the sampler is ``async`` and so runs on the event loop, which alone changes them; what
only reads and writes files is not, and runs in a thread.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from server_manager import (
    SAMPLING_PARAMS,
    UNKNOWN_ABILITIES,
    Abilities,
    ModelSpec,
    NotAllowed,
    ServerExit,
    ServerState,
    ServerStatus,
    defaults_for,
    parse_shell_line,
    without_passwords,
)
from webui.body_limit import LimitedRoute
from webui.context import AppContext
from webui.errors import NoSuchRoute
from webui.failure_view import for_operators
from webui.masked_values import unmasked_url
from webui.model_form import SOURCE_VARIABLES, described, source_env, source_of, spec_from
from webui.snapshot import Snapshot, status_dict, without_command, without_user_names
from webui.switch_fields import SwitchForm
from webui.users import User

router = APIRouter(route_class=LimitedRoute)
no_such_route = APIRouter()
"""To be included last."""
_UP = (ServerState.READY, ServerState.ASLEEP)


async def context_of(request: Request) -> AppContext:
    """The app's objects."""
    found: AppContext = request.app.state.context
    return found


async def user_of(request: Request) -> User:
    """Who sends the request; the middleware has let it pass."""
    found: User = request.state.user
    return found


async def operator_of(request: Request) -> User:
    """The same, if it is an operator. Raises ``NotAllowed``."""
    user = await user_of(request)
    if not user.is_operator:
        raise NotAllowed("Only an operator may do this.", "Ask somebody with the role “operator”.", role=True)
    return user


Context = Annotated[AppContext, Depends(context_of)]
AnyUser = Annotated[User, Depends(user_of)]
Operator = Annotated[User, Depends(operator_of)]


class StartOptions(BaseModel):
    """How to start."""

    leaving: str | None = Field(None, description="Who is to make room first; stopped where nothing can sleep.")
    sparing: str | None = Field(None, description="Who is not to make room.")


class ModelForm(SwitchForm):
    """A model's file: its `model`, the other keys of the YAML, and the variables of its .env file."""

    model: str = Field(description="Hub id or path.")
    options: dict[str, Any] = Field(default_factory=dict, description="Flags of `vllm serve` without their dashes.")
    other_flags: str = Field("", description="More flags, as they would stand in a shell.")
    env: dict[str, str] = Field(default_factory=dict)
    source: Literal["default", "huggingface", "modelscope", "mirror"] = "default"
    mirror: str = Field("", description="`HF_ENDPOINT`, for the source `mirror`.")
    restarts: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="How often in a row it is started again after a crash; none: as `defaults.env` says."
    )
    based_on: str = Field("", description="Whose values the masked ones (`••••••`) are, if not this model's own.")


class SourceChoice(BaseModel):
    """Where models come from."""

    source: Literal["default", "huggingface", "modelscope", "mirror"]
    mirror: str = Field("", description="`HF_ENDPOINT`, for the source `mirror`.")


class Command(BaseModel):
    """A line for a shell."""

    command: str


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the app answers. Needs no login."""
    return {"status": "ok"}


@router.get("/api/snapshot")
async def snapshot(request: Request, context: Context, user: AnyUser) -> Response:
    """Everything that the page shows live: the machine, the GPUs, the servers with their memory."""
    maker: Snapshot = request.app.state.snapshot
    return Response(maker.json(context.sampler.latest, operator=user.is_operator), media_type="application/json")


@router.get("/api/history")
async def history(context: Context, user: AnyUser, since: float = 0.0) -> Response:
    """The sampled memory and utilisation after `since` (Unix time in seconds), oldest first."""
    return Response(msgspec.json.encode(context.sampler.history(since)), media_type="application/json")


@router.get("/api/gpus")
async def gpus(context: Context, user: AnyUser) -> Response:
    """The latest reading of every GPU by NVML, and of the machine's own memory."""
    found = msgspec.to_builtins(context.sampler.latest)
    shown = found if user.is_operator else without_user_names(found)
    return Response(msgspec.json.encode(shown), media_type="application/json")


@router.get("/api/me")
async def me(context: Context, user: AnyUser) -> dict[str, Any]:
    """Who is asking, and what they may do."""
    return {"name": user.name, "role": user.role, "login": context.access.login_required}


@router.get("/api/models")
async def models(context: Context, user: AnyUser) -> dict[str, Any]:
    """The catalogue with each model's state, and the files that could not be read."""
    catalogue = context.manager.catalogue
    statuses = context.manager.statuses()
    specs = {spec.name: spec for spec in catalogue.specs()}
    abilities = await context.chat.abilities.of(specs.values())
    return {
        "models": [
            {
                "name": name,
                "model": specs[name].model if name in specs else None,
                "source": specs[name].source if name in specs else None,
                "trust_remote_code": specs[name].trust_remote_code if name in specs else None,
                "warnings": specs[name].warnings if name in specs else (),
                "abilities": abilities.get(name, UNKNOWN_ABILITIES).as_dict(),
                "status": status_dict(status) if user.is_operator else without_command(status_dict(status)),
            }
            for name, status in statuses.items()
        ],
        "problems": [str(problem) for problem in catalogue.problems],
    }


async def _abilities(name: str, status: ServerStatus, context: AppContext) -> Abilities:
    """Whether a model can think on demand, with the sampling for it, and see."""
    if status.attached or name not in context.manager.catalogue.names():
        return UNKNOWN_ABILITIES
    return (await context.chat.abilities.of([context.manager.catalogue.get(name)]))[name]


@router.get("/api/models/{name}")
async def model(name: str, context: Context, user: AnyUser) -> dict[str, Any]:
    """One model: its file, the command it makes, and the sampling that its authors recommend."""
    status = context.manager.server(name).status
    limit = int(next(row.maximum for row in SAMPLING_PARAMS if row.name == "max_tokens"))
    known = {"name": name, "attached": status.attached, "context_length": None, "max_tokens_limit": limit}
    abilities = await _abilities(name, status, context)
    known["abilities"] = abilities.as_dict()
    if status.attached or name not in context.manager.catalogue.names():
        return known | {"sampling": defaults_for({})}
    spec = context.manager.catalogue.get(name)

    def read_files() -> dict[str, Any]:
        sampling = defaults_for({**abilities.sampling.auto, **context.manager.recommended_sampling(spec)})
        found = described(spec, context)
        if not user.is_operator:  # flags, variables and paths are the operators' own
            found = {"context_length": found["context_length"]}
        return known | found | {"sampling": sampling}

    return await asyncio.to_thread(read_files)


@router.put("/api/models/{name}")
def save_model(name: str, form: ModelForm, context: Context, user: Operator) -> dict[str, Any]:
    """Writes the model's file into the user's folder. A server that is up keeps its flags until its next start."""
    spec = spec_from(name, form.model_dump(), context.manager.catalogue)
    context.manager.catalogue.save(spec)
    return described(context.manager.catalogue.get(name), context)


@router.post("/api/models/{name}/preview")
def preview_model(name: str, form: ModelForm, context: Context, user: Operator) -> dict[str, Any]:
    """What saving would give, without saving."""
    return described(spec_from(name, form.model_dump(), context.manager.catalogue), context)


@router.delete("/api/models/{name}")
def delete_model(name: str, context: Context, user: Operator) -> dict[str, str]:
    """Deletes the user's own file; a model that comes with the app is as it was shipped again."""
    context.manager.catalogue.delete(name)
    return {"deleted": name}


@router.get("/api/source")
def source(context: Context, user: AnyUser) -> dict[str, str]:
    """Where models come from unless their own file says otherwise."""
    chosen, mirror = source_of(context.manager.catalogue.defaults())
    return {"source": chosen, "mirror": without_passwords(mirror)}


@router.put("/api/source")
def save_source(body: SourceChoice, context: Context, user: Operator) -> dict[str, str]:
    """Sets the source for all models (`defaults.env`); each takes it at its next start."""
    catalogue = context.manager.catalogue
    kept = {key: value for key, value in catalogue.defaults().items() if key not in SOURCE_VARIABLES}
    mirror = unmasked_url(body.mirror, catalogue.defaults().get("HF_ENDPOINT", ""))
    catalogue.save_defaults(kept | source_env(body.source, mirror))
    return {"source": body.source, "mirror": without_passwords(mirror)}


@router.post("/api/parse")
def parse(body: Command, context: Context, user: Operator) -> dict[str, Any]:
    """Reads a pasted `vllm serve …` line."""
    spec: ModelSpec = parse_shell_line(body.command)
    return described(spec, context, secrets=True)  # they have just come from there, and must be sent back to be saved


@router.get("/api/servers/{name}")
async def one_server(name: str, context: Context, user: AnyUser) -> dict[str, Any]:
    """One server: its state, address, command and, where it ended, how."""
    status = context.manager.server(name).status
    shown = for_operators(status_dict(status), status, context.manager.catalogue)
    shown["abilities"] = (await _abilities(name, status, context)).as_dict()
    return shown if user.is_operator else without_command(shown)


@router.post("/api/servers/{name}/start", status_code=202)
async def start(name: str, context: Context, user: Operator, options: StartOptions | None = None) -> dict[str, Any]:
    """Begins a start and answers at once; a server that is up or starting stays as it is."""
    wanted = options or StartOptions(leaving=None, sparing=None)
    for known in filter(None, (name, wanted.leaving, wanted.sparing)):
        context.manager.server(known)  # says so where there is none of that name
    return status_dict(context.manager.switch(name, wanted.leaving, wanted.sparing).status)


@router.post("/api/servers/{name}/stop")
async def stop(name: str, context: Context, user: Operator) -> dict[str, Any]:
    """Stops the server and answers when nothing of it is left; `exit.seconds` is how long that took."""
    server = context.manager.server(name)
    end: ServerExit | None = await server.stop()
    return status_dict(server.status) | {"stopped": end is not None}


@router.post("/api/servers/{name}/sleep")
async def sleep(
    name: str, context: Context, user: Operator, level: Annotated[int, Query(ge=1, le=2)] = 1
) -> dict[str, Any]:
    """vLLM's sleep mode; the model must have been started with `enable-sleep-mode` (CUDA only)."""
    server = context.manager.server(name)
    await context.manager.sleep(name, level)
    return status_dict(server.status)


@router.post("/api/servers/{name}/wake")
async def wake(name: str, context: Context, user: Operator) -> dict[str, Any]:
    """Wakes a sleeping server; one that is awake stays as it is."""
    server = context.manager.server(name)
    if not server.status.attached and server.status.state not in _UP:
        raise NotAllowed(f"{name} is not up.", "Start it.")
    await (server.wake() if server.status.attached else context.manager.wake(name))
    return status_dict(server.status)


@no_such_route.api_route("/api/{path:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"], include_in_schema=False)
async def nothing_here(path: str, request: Request) -> None:
    """Raises 404 as JSON; without it the page's own answer would come."""
    raise NoSuchRoute(f"There is no {request.method} /api/{path}.", "See /docs.")
