"""A store for each test, closed afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kept import Kept


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    found = Kept(tmp_path / "conversations.db")
    await found.store.open()
    yield found
    await found.store.close()
