"""How often text comes."""

from __future__ import annotations

import pytest

from server_manager.errors import SpecError
from server_manager.settings import chats_per_user
from server_manager.stream_pace import StreamPace, frame_seconds


@pytest.mark.parametrize(
    ("tokens_per_second", "expected"), [(0.5, 1), (20, 1), (49, 1), (60, 2), (136, 5), (520, 8), (9000, 8)]
)
def test_a_chunk_takes_a_frames_time_at_most(tokens_per_second: float, expected: int) -> None:
    pace = StreamPace()
    pace.learn("m", tokens_per_second)
    assert pace.stream_interval("m") == expected
    assert expected == 1 or expected / tokens_per_second <= frame_seconds(1)


def test_another_start_begins_with_single_tokens() -> None:
    pace = StreamPace()
    pace.learn(("m", 1.0), 520)
    assert pace.stream_interval(("m", 2.0)) == 1
    for number in range(200):
        pace.learn(("other", float(number)), 520)
    assert pace.stream_interval(("m", 1.0)) == 1, "forgotten: only so many are kept"
    pace.learn(("m", 2.0), 10)
    assert pace.stream_interval(("m", 2.0)) == 1


def test_frames_come_further_apart_with_many_chats_but_never_jerky() -> None:
    apart = [frame_seconds(chats) for chats in (1, 32, 64, 128, 1000)]
    assert apart == sorted(apart)
    assert apart[1] == apart[0] < apart[2]
    assert apart[-1] <= 0.1


def test_chats_per_user_is_set_by_the_environment() -> None:
    assert chats_per_user({}) == 16
    assert chats_per_user({"DECK_CHATS_PER_USER": "3"}) == 3
    for wrong in ("0", "-1", "many", "1.5"):
        with pytest.raises(SpecError, match="DECK_CHATS_PER_USER"):
            chats_per_user({"DECK_CHATS_PER_USER": wrong})
