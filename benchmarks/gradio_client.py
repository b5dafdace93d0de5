"""A chat with a ``gr.ChatInterface`` as Gradio's own page has it: its events in their order, and the queue's protocol.

What follows what stands in the app's configuration, which the page reads too: events that do not queue are posted to
``run/predict``; the one that answers joins the queue and is read from ``queue/data``.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec

from benchmarks.chat_clients import Browser, Order, Seen, prompt

_API = "/gradio_api"
_STATES = ("state", "browserstate")
"""Components whose value stays on the server, or in the browser's storage."""


class GradioChat:
    """One tab."""

    def __init__(self, order: Order, number: int) -> None:
        self.seen = Seen()
        self._order = order
        self._text = prompt(number)
        self._session = secrets.token_hex(6)

    async def prepare(self) -> None:
        self._browser = await Browser(self._order).open()
        self._stream = await Browser(self._order).open()
        await self._browser.get("/")
        config = msgspec.json.decode(await self._browser.get("/config"))
        self._types = {component["id"]: component["type"] for component in config["components"]}
        self._values = {component["id"]: component["props"].get("value") for component in config["components"]}
        self._events = config["dependencies"]
        [self._box] = [number for number, kind in self._types.items() if kind == "textbox"]
        self._submit = next(event for event in self._events if [self._box, "submit"] in event["targets"])
        self._values[self._box] = self._text
        self._left: list[dict[str, Any]] = []

    async def ask(self) -> None:
        self.seen.sent_at = time.perf_counter()
        event: dict[str, Any] | None = self._submit
        while event is not None and not event["types"]["generator"]:
            await self._run(event)
            event = self._next(event)
        assert event is not None, "the page has no event that answers"
        await self._answer(event)
        self._left = [found for found in self._events if found["trigger_after"] == event["id"]]
        self.seen.tokens = self._order.tokens
        self.seen.reads = self._stream.reads

    def _next(self, event: dict[str, Any]) -> dict[str, Any] | None:
        followers = [found for found in self._events if found["trigger_after"] == event["id"]]
        return next((found for found in followers if found["inputs"]), None)

    def _body(self, event: dict[str, Any]) -> dict[str, Any]:
        data = [None if self._types[part] in _STATES else self._values.get(part) for part in event["inputs"]]
        trigger = {"event_data": None, "trigger_id": self._box}
        return {"data": data, "fn_index": event["id"], "session_hash": self._session, **trigger}

    async def _run(self, event: dict[str, Any]) -> None:
        answer = msgspec.json.decode(await self._browser.post(f"{_API}/run/predict", self._body(event)))
        self._take(event, answer["data"])

    async def _answer(self, event: dict[str, Any]) -> None:
        await self._browser.post(f"{_API}/queue/join", self._body(event))
        done: list[dict[str, Any]] = []

        def take(line: bytes) -> None:
            message = msgspec.json.decode(line.removeprefix(b"data: "))
            if message["msg"] == "process_generating":
                self.seen.text()
            elif message["msg"] == "process_completed":
                self.seen.ended_at = time.perf_counter()
                done.append(message)

        await self._stream.get(f"{_API}/queue/data?session_hash={self._session}", take)
        if not done or not done[0]["success"]:
            raise RuntimeError(f"no whole answer: {done}")
        self._take(event, done[0]["output"]["data"])

    def _take(self, event: dict[str, Any], values: list[Any]) -> None:
        for part, value in zip(event["outputs"], values, strict=True):
            if isinstance(value, dict) and value.get("__type__") == "update":
                value = value.get("value", self._values.get(part))
            self._values[part] = value

    async def close(self) -> None:
        """What the page still asks for when the answer is there: it costs the app time as well."""
        for event in self._left:
            while event is not None and not event["queue"]:
                await self._run(event)
                event = self._next(event)
        self._browser.close()
        self._stream.close()
