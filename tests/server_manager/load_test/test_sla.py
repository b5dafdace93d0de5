"""The search for the highest concurrency within a limit."""

from __future__ import annotations

import pytest

from server_manager.load_test.settings import Sla
from server_manager.load_test.sla import SlaSearch


def search(knee: int, most: int = 256, fails_from: int = 10**6) -> SlaSearch:
    """Of a server that keeps 100 ms up to ``knee`` requests at a time."""
    found = SlaSearch(Sla(100, most))
    while (level := found.next()) is not None:
        assert len(found.result.tried) < 20
        found.tell(level, 99.0 if level <= knee else 101.0, all_answered=level < fails_from)
    found.finish()
    return found


@pytest.mark.parametrize("knee", [1, 2, 3, 4, 7, 13, 16, 19, 31, 32, 63, 100, 128, 200, 255])
def test_it_finds_the_knee(knee: int) -> None:
    found = search(knee).result
    assert found.highest is not None
    assert found.too_high is not None
    assert found.highest <= knee < found.too_high
    assert found.too_high - found.highest <= max(1, 0.05 * found.highest)
    assert len(found.tried) <= 14
    assert len({tried.concurrency for tried in found.tried}) == len(found.tried), "nothing is measured twice"
    assert str(found.highest) in found.words


def test_it_doubles_first() -> None:
    assert [tried.concurrency for tried in search(5).result.tried] == [1, 2, 4, 8, 6, 5]


def test_a_limit_that_nothing_keeps_and_one_that_all_keep() -> None:
    assert search(0).result.highest is None
    assert "Not even one" in search(0).result.words
    found = search(10**6, most=100).result
    assert (found.highest, found.too_high) == (100, None)
    assert "more were not tried" in found.words


def test_failed_requests_do_not_keep_the_limit() -> None:
    assert search(10**6, fails_from=6).result.highest == 5
