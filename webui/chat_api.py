"""The endpoint ``/chat`` of Gradio's API, for scripts and ``gradio_client``.

It goes through the ``openai`` package and not through the page's route: a script wants the whole text, and a library
that many know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import gradio as gr

from server_manager import NotAllowed, ServerManagerError, request_fields
from webui.context import AppContext


def register_chat_api(context: AppContext) -> None:
    """Adds the endpoint to the page that is being built."""

    async def chat(
        message: str,
        model: str,
        system_prompt: str = "You are a helpful assistant.",
        temperature: float | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        max_tokens: int | None = None,
        request: gr.Request = None,  # Gradio fills it in
    ) -> AsyncIterator[str]:
        """Streams the answer to one message; each value is the text so far. Starts the model where it is not up."""
        user = await context.access.user_of(request.headers)
        try:
            server = context.manager.server(model)
            if user is None or (not user.is_operator and not server.status.can_be_asked):
                raise NotAllowed(f"{model} is not up.", "Ask an operator to start it.")
            await context.manager.ensure_ready(model)
            fields = request_fields(
                {
                    "temperature": temperature,
                    "top_p": top_p,
                    "repetition_penalty": repetition_penalty,
                    "max_tokens": max_tokens,
                }
            )
            messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
            messages.append({"role": "user", "content": message})
            text = ""
            served = server.status.served_model_name or model
            async with aclosing(server.client().stream_with_openai(served, messages, fields)) as pieces:
                async for piece in pieces:
                    text += piece
                    yield text
        except ServerManagerError as error:
            raise gr.Error(str(error)) from error

    gr.api(chat, api_name="chat", concurrency_limit=None)
