"""A chat page as most are written: ``gr.ChatInterface``, the ``openai`` package, and a yield for each token.

    python -m benchmarks.naive_chat --port P --url URL --model NAME --tokens N [--turns N]

It is given what it can be given without being written otherwise: any number of chats at once, which is not Gradio's
default. ``--turns`` puts so many earlier turns on the page, taken from the engine's own answers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.app_start import ROOT, free_port
from benchmarks.gateway import accepts
from benchmarks.server_stop import wait_for

_AT_ONCE = 400
"""Gradio runs at most 40 events at a time by default."""
KEY_VARIABLE = "NAIVE_CHAT_KEY"


class NaiveChat:
    """The function behind the page."""

    def __init__(self, url: str, model: str, key: str, tokens: int) -> None:
        import openai  # noqa: PLC0415  # only in the process that is the page

        self._client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key or "none")
        self._model = model
        self._tokens = tokens

    async def answer(self, message: str, history: list[dict[str, Any]]) -> AsyncIterator[str]:
        """Each value is the text so far."""
        messages = [{"role": turn["role"], "content": _plain(turn["content"])} for turn in history]
        messages.append({"role": "user", "content": message})
        request: dict[str, Any] = {"model": self._model, "messages": messages, "max_tokens": self._tokens}
        stream = await self._client.chat.completions.create(
            **request, temperature=0.8, stream=True, extra_body={"ignore_eos": True}
        )
        text = ""
        async with stream:
            async for chunk in stream:
                if chunk.choices and (piece := chunk.choices[0].delta.content):
                    text += piece
                    yield text

    async def earlier(self, turns: int, tokens: int) -> list[dict[str, str]]:
        """A conversation with the engine, as the page's first value."""
        found: list[dict[str, str]] = []
        short = NaiveChat(str(self._client.base_url).removesuffix("/v1/"), self._model, self._client.api_key, tokens)
        for turn in range(turns):
            question, text = f"Turn {turn}", ""
            async for so_far in short.answer(question, found):
                text = so_far
            found += [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
        return found


def _plain(content: Any) -> str:
    """The text of a message, which Gradio hands over in parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@contextmanager
def naive_chat(
    engine: str, model: str, key: str, tokens: int, turns: int = 0, turn_tokens: int = 100
) -> Iterator[tuple[str, int]]:
    """The page as a process of its own: its URL and pid."""
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.naive_chat", "--port", str(port), "--url", engine, "--model", model]
    argv += ["--tokens", str(tokens), "--turns", str(turns), "--turn-tokens", str(turn_tokens)]
    env = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", KEY_VARIABLE: key}
    process = subprocess.Popen(argv, cwd=ROOT, env=env)
    try:
        wait_for(lambda: accepts(port) or process.poll() is not None, "the naive page")
        if process.poll() is not None:
            raise RuntimeError(f"the naive page ended with code {process.returncode}")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, required=True, help="of each answer")
    parser.add_argument("--turns", type=int, default=0)
    parser.add_argument("--turn-tokens", type=int, default=100, help="of each of those")
    args = parser.parse_args()
    key = os.environ.get(KEY_VARIABLE, "")
    history = asyncio.run(NaiveChat(args.url, args.model, key, args.tokens).earlier(args.turns, args.turn_tokens))
    chat = NaiveChat(args.url, args.model, key, args.tokens)
    import gradio as gr  # noqa: PLC0415

    page = gr.ChatInterface(
        chat.answer, chatbot=gr.Chatbot(value=history), concurrency_limit=None, analytics_enabled=False
    )
    page.launch(server_name="127.0.0.1", server_port=args.port, max_threads=_AT_ONCE, ssr_mode=False, quiet=True)


if __name__ == "__main__":
    main()
