"""How often a stream brings text: from vLLM to us, and from us to the page."""

from __future__ import annotations

from collections.abc import Hashable

_FRAME_SECONDS = 0.04
_CHATS_PER_FRAME_SECONDS = 32
"""With more chats at once the frames come further apart in proportion: people read no faster for it."""
_LONGEST_FRAME_SECONDS = 0.1
"""Text that comes further apart than 150 ms looks jerky; the rest is for the engine's own hiccups."""
_MOST_TOKENS = 8
"""Of a chunk. With 8 the server and we do an eighth of the work of a token a chunk; more spares next to nothing."""


def frame_seconds(streaming: int) -> float:
    """Between two frames of an answer when so many are streamed."""
    return min(_FRAME_SECONDS * max(1.0, streaming / _CHATS_PER_FRAME_SECONDS), _LONGEST_FRAME_SECONDS)


class StreamPace:
    """Chooses vLLM's ``stream_interval`` for the next answer of a server by the speed of its last one.

    A chunk of so many tokens takes a frame's time, so that nobody sees that they come together: on a GPU that makes
    500 tokens a second it is 8, on a CPU with 20 it is one. vLLM always sends the first token at once, and takes the
    larger of this and the ``--stream-interval`` that the user has set.
    """

    def __init__(self) -> None:
        self._rates: dict[Hashable, float] = {}

    def learn(self, server: Hashable, tokens_per_second: float) -> None:
        """The speed of an answer. ``server``: what tells one start of a server from another."""
        self._rates.pop(server, None)
        self._rates[server] = tokens_per_second
        if len(self._rates) > 100:
            del self._rates[next(iter(self._rates))]

    def stream_interval(self, server: Hashable) -> int:
        """How many tokens a chunk may have; 1 as long as nothing is known."""
        return max(1, min(_MOST_TOKENS, int(self._rates.get(server, 0.0) * _FRAME_SECONDS)))
