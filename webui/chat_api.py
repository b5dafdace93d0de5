"""The endpoint ``/chat`` of Gradio's API, for scripts and ``gradio_client``.

It goes through the ``openai`` package and not through the page's route: a script wants the whole text, and a library
that many know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import gradio as gr

from server_manager import ChatRequest, NotAllowed, ServerManagerError
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
        thinking: bool | None = None,
        request: gr.Request = None,  # Gradio fills it in
    ) -> AsyncIterator[str]:
        """Streams the answer to one message; each value is the text so far. Starts the model where it is not up."""
        user = await context.access.user_of(request.headers)
        question = ChatRequest(
            conversation="",
            model=model,
            text=message,
            system_prompt=system_prompt,
            sampling={
                "temperature": temperature,
                "top_p": top_p,
                "repetition_penalty": repetition_penalty,
                "max_tokens": max_tokens,
            },
            thinking=thinking,
        )
        try:
            if user is None:  # removed since Gradio took the request
                raise NotAllowed("You are not logged in.", "Log in again.")
            answer = context.chat.answer_alone(
                question, owner=user.name, may_start=user.is_operator, most=context.answers_per_user
            )
            async with aclosing(answer) as texts:
                async for text in texts:
                    yield text
        except ServerManagerError as error:
            raise gr.Error(str(error)) from error

    gr.api(chat, api_name="chat", concurrency_limit=None)
