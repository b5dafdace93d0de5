"""The conversations of the user who asks, and the system prompts that they have put by."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel, Field

from server_manager import (
    ConversationView,
    Preset,
    conversation_as_json,
    conversation_as_markdown,
    conversation_file_name,
    turn_dict,
)
from webui.attachment import attachment
from webui.body_limit import LimitedRoute
from webui.error_words import note_in_words
from webui.rest import AnyUser, Context

router = APIRouter(route_class=LimitedRoute)
MAX_TEXT_CHARS = 2_000_000
_PRIVATE = {"Cache-Control": "no-store"}
_IMAGE = {"Cache-Control": "private, max-age=600", "X-Content-Type-Options": "nosniff"}
"""It never changes, but a browser must not hold for long what may be deleted for good."""


def _whole(text: str) -> str:
    """Half a character, of a text that was cut within one, can neither be sent nor kept."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(_whole)]


class Changes(BaseModel):
    """What is to change of a conversation."""

    title: Annotated[str, Field(max_length=10_000), AfterValidator(_whole)] | None = Field(
        None, description="Cut to 200 characters; an empty one is made from the first question again."
    )
    system_prompt: Text | None = None


class TurnChoice(BaseModel):
    """One turn of the conversation."""

    turn: str


class PresetForm(BaseModel):
    """A system prompt."""

    text: Text


@router.get("/api/conversations")
async def conversations(
    context: Context,
    user: AnyUser,
    q: Annotated[str, Query(max_length=1000, description="Words that the title or the texts hold.")] = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 500,
) -> Response:
    """Those that are kept, the newest first; `turns` counts those that are shown."""
    return _json(await context.conversations.listed(user.name, q, limit))


@router.delete("/api/conversations")
async def delete_all(context: Context, user: AnyUser) -> dict[str, int]:
    """Deletes all of the user's for good, temporary ones too."""
    return {"deleted": await context.conversations.delete_all(user.name)}


@router.get("/api/conversations/{conversation_id}")
async def conversation(conversation_id: str, context: Context, user: AnyUser) -> Response:
    """What is shown of it: the turns from the beginning to the current one. One that nobody began is empty.

    A turn's `siblings` are the ids of all with the same parent, itself among them, the eldest first. `kept` is false
    where it is in memory only.
    """
    return _json(_view_dict(await context.conversations.look(conversation_id, user.name)))


@router.patch("/api/conversations/{conversation_id}")
async def change(conversation_id: str, changes: Changes, context: Context, user: AnyUser) -> Response:
    """Sets the title or the system prompt; answers with the whole."""
    await context.conversations.change(
        conversation_id, user.name, title=changes.title, system_prompt=changes.system_prompt
    )
    return _json(_view_dict(await context.conversations.look(conversation_id, user.name)))


@router.post("/api/conversations/{conversation_id}/select")
async def select(conversation_id: str, choice: TurnChoice, context: Context, user: AnyUser) -> Response:
    """Shows that turn in place of its sibling, with the newest of what follows it."""
    return _json(_view_dict(await context.conversations.select(conversation_id, user.name, choice.turn)))


@router.post("/api/conversations/{conversation_id}/branch", status_code=201)
async def branch(conversation_id: str, choice: TurnChoice, context: Context, user: AnyUser) -> dict[str, str]:
    """Makes a conversation of its own from what leads to that turn, itself included."""
    return {"id": await context.conversations.branch(conversation_id, user.name, choice.turn)}


@router.get("/api/conversations/{conversation_id}/export")
async def export(
    conversation_id: str, context: Context, user: AnyUser, format: Literal["md", "json"] = "md"
) -> Response:
    """A file: what is shown as Markdown, or everything (all alternatives, figures, images) as JSON."""
    whole = await context.conversations.whole(conversation_id, user.name)
    make = conversation_as_json if format == "json" else conversation_as_markdown
    text = await asyncio.to_thread(make, whole)
    name = conversation_file_name(whole.header.title, format)
    return Response(
        text,
        media_type="application/json" if format == "json" else "text/markdown; charset=utf-8",
        headers={**_PRIVATE, **attachment(name, "conversation")},
    )


@router.get("/api/conversations/{conversation_id}/images/{image_id}")
async def image(conversation_id: str, image_id: str, context: Context, user: AnyUser) -> Response:
    """An image of a question; its id is made from its bytes, so it never changes."""
    found = await context.conversations.image(conversation_id, user.name, image_id)
    return Response(found.data, media_type=found.type, headers=_IMAGE)


@router.delete("/api/conversations/{conversation_id}")
async def delete(conversation_id: str, context: Context, user: AnyUser) -> dict[str, str]:
    """Deletes it for good, also where there is none."""
    await context.conversations.delete(conversation_id, user.name)
    return {"deleted": conversation_id}


@router.get("/api/presets")
async def presets(context: Context, user: AnyUser) -> Response:
    """The user's system prompts, by name."""
    return _json(await context.conversations.presets.listed(user.name))


@router.get("/api/presets/{name:path}")
async def preset(name: str, context: Context, user: AnyUser) -> Response:
    """One system prompt."""
    return _json(await context.conversations.presets.get(user.name, name))


@router.put("/api/presets/{name:path}")
async def save_preset(name: str, form: PresetForm, context: Context, user: AnyUser) -> Response:
    """Adds a system prompt, or changes the one of that name."""
    found = Preset(name, form.text)
    await context.conversations.presets.put(user.name, found)
    return _json(found)


@router.delete("/api/presets/{name:path}")
async def delete_preset(name: str, context: Context, user: AnyUser) -> dict[str, str]:
    """Deletes it for good."""
    await context.conversations.presets.delete(user.name, name)
    return {"deleted": name}


def _view_dict(view: ConversationView) -> dict[str, Any]:
    head = view.header
    return {
        "id": head.id,
        "title": head.title,
        "busy": view.busy,
        "kept": view.kept,
        "system_prompt": head.system_prompt,
        "model": head.model,
        "turns": [
            turn_dict(turn) | {"siblings": siblings, "note_translations": note_in_words(turn.note)}
            for turn, siblings in zip(view.turns, view.siblings, strict=True)
        ],
    }


def _json(found: object) -> Response:
    return Response(msgspec.json.encode(found), media_type="application/json", headers=_PRIVATE)
