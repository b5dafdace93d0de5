"""The routes by which vLLM sleeps and wakes. They exist only with ``VLLM_SERVER_DEV_MODE=1``."""

from __future__ import annotations

import msgspec

from server_manager.client import ServerClient
from server_manager.completion import complete
from server_manager.errors import RequestRejected

_PATIENCE_SECONDS = 300.0
"""The first sleep of a 7B takes 16 s: it pins host memory. Reading the weights again takes as long as the disk."""
_PROOF_SECONDS = 60.0


class _Sleeping(msgspec.Struct):
    is_sleeping: bool


async def sleep(client: ServerClient, level: int) -> None:
    """1: the weights go to host memory; 2: they are dropped. Raises ``ServerUnreachable`` or ``RequestRejected``."""
    await client.ask("POST", f"/sleep?level={level}", seconds=_PATIENCE_SECONDS)


async def wake_up(client: ServerClient, level: int) -> None:
    """The way back from a sleep of that level. Raises ``ServerUnreachable`` or ``RequestRejected``."""
    if level != 2:
        await client.ask("POST", "/wake_up", seconds=_PATIENCE_SECONDS)
        return
    await client.ask("POST", "/wake_up?tags=weights", seconds=_PATIENCE_SECONDS)
    # Without this it serves garbage (vllm#29341).
    await client.ask("POST", "/collective_rpc", {"method": "reload_weights"}, seconds=_PATIENCE_SECONDS)
    await client.ask("POST", "/wake_up?tags=kv_cache", seconds=_PATIENCE_SECONDS)
    # What was cached of earlier prompts is gone with the level.
    await client.ask("POST", "/reset_prefix_cache", seconds=_PROOF_SECONDS)


async def is_sleeping(client: ServerClient, *, seconds: float = 5.0) -> bool:
    """Raises ``ServerUnreachable`` or ``RequestRejected``, also where there is no such route."""
    body = await client.ask("GET", "/is_sleeping", seconds=seconds)
    try:
        return msgspec.json.decode(body, type=_Sleeping).is_sleeping
    except msgspec.MsgspecError as error:
        raise RequestRejected(f"/is_sleeping answers {body[:100]!r}.") from error


async def sleep_level(client: ServerClient) -> int:
    """1 or 2 where it sleeps, else 0; waits until it has fallen asleep or woken where it is about to.

    Raises ``ServerUnreachable`` or ``RequestRejected``.
    """
    # The metrics alone would not do: they tell of a sleep once it is over. vLLM answers this one in its turn.
    if not await is_sleeping(client, seconds=_PATIENCE_SECONDS):
        return 0
    text = (await client.ask("GET", "/metrics")).decode(errors="replace")
    on = [line for line in text.splitlines() if line.startswith("vllm:engine_sleep_state{") and line.endswith(" 1.0")]
    for level, state in ((2, "discard_all"), (1, "weights_offloaded")):
        if any(f'sleep_state="{state}"' in line for line in on):
            return level
    return 2  # with --disable-log-stats nothing tells: what brings it back from the deeper sleep is right after both


async def likely_tokens(client: ServerClient, model: str, prompt: str, count: int) -> frozenset[str] | None:
    """The ``count`` likeliest tokens after ``prompt``; ``None`` where the model completes no text (embeddings).

    Raises ``ServerUnreachable`` or ``RequestRejected``.
    """
    try:
        found = await complete(client, model, prompt, 1, {"logprobs": count}, seconds=_PROOF_SECONDS)
    except RequestRejected as error:
        if error.facts.get("status") in (400, 404, 405):
            return None
        raise
    if not found.has_only_numbers:
        raise RequestRejected("What it computes is not a number (NaN).")
    return found.candidates or frozenset({found.text})
