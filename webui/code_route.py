"""A chat as code: what ``/api/chat`` would send, for the same body, as lines to copy."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from server_manager import ImagePlace, chat_code, serve_code
from webui.body_limit import LimitedRoute
from webui.chat_route import Question, chat_request
from webui.context import AppContext
from webui.rest import AnyUser, Context
from webui.users import User

router = APIRouter(route_class=LimitedRoute)


@router.post("/api/chat/code")
async def code(question: Question, request: Request, context: Context, user: AnyUser) -> dict[str, Any]:
    """The question as `curl`, as Python with `openai`, and the line that serves its model. Nothing is asked.

    `serve` is for operators, and null where this app does not start the model. `with_key`: set `DECK_API_KEY`.
    """
    origin = request.headers.get("origin") or str(request.base_url)
    with_key = context.access.login_required
    asked = await context.chat.preview(chat_request(question), owner=user.name)
    images = f"{origin.rstrip('/')}/api/conversations/{question.conversation}/images"
    places = {image.data_url: ImagePlace(image.type, f"{images}/{image.id}") for image in asked.kept_images}
    found = await asyncio.to_thread(chat_code, asked.body, origin, with_key=with_key, places=places)
    return {"curl": found.curl, "python": found.python, "with_key": with_key, **_serve(question.model, context, user)}


def _serve(model: str, context: AppContext, user: User) -> dict[str, str | None]:
    catalogue = context.manager.catalogue
    if not user.is_operator or context.manager.server(model).status.attached or model not in catalogue.names():
        return {"serve": None, "serve_url": None, "serve_name": None}
    found = serve_code(context.manager.local_files(catalogue.get(model)))
    return {"serve": found.line, "serve_url": found.url, "serve_name": found.model}
