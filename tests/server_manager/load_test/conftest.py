"""Load tests over a fake vLLM, which is both the server and the generator."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fakes import AddModel, Deck
from shooting_range import Range


@pytest.fixture
async def shooting(deck: Deck, add_model: AddModel) -> AsyncIterator[Range]:
    """With the models ``quick`` and ``second``, and ``slow`` (20 tokens a second)."""
    add_model("quick")
    add_model("second")
    add_model("slow", tokens_per_second=20)
    found = Range(deck)
    await found.tests.open()
    yield found
    await found.tests.close()
