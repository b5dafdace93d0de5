"""What is measured of an answer."""

from __future__ import annotations

import math

import pytest

from server_manager.smoke.figures import LARGEST_PERPLEXITY, broken_characters, perplexity, repetition


@pytest.mark.parametrize(
    ("logprobs", "found"),
    [
        ([math.log(0.5)] * 3, 2),
        ([math.log(1 / 49152)] * 5, 49152),  # every token alike
        ([0.0], 1),
        ([math.log(0.5), math.log(1 / 8)], 4),
        ([-9999.0], LARGEST_PERPLEXITY),  # vLLM's own for "never"
    ],
)
def test_perplexity_counts_the_tokens_that_were_as_likely(logprobs: list[float], found: float) -> None:
    assert perplexity(logprobs) == pytest.approx(found)


@pytest.mark.parametrize("logprobs", [[], [None], [-1.0, None], [-1.0, math.nan], [-math.inf]])
def test_perplexity_of_what_is_no_number_is_unknown(logprobs: list[float | None]) -> None:
    assert perplexity(logprobs) is None


@pytest.mark.parametrize(("length", "found"), [(1, 0.93), (2, 0.87), (4, 0.73), (8, 0.47), (16, 0.0)])
def test_repetition_falls_with_the_length_of_the_loop(length: int, found: float) -> None:
    tokens = [str(i % length) for i in range(16)]
    assert repetition("", tokens) == pytest.approx(found, abs=0.01)
    assert repetition(" ".join(f"w{token}" for token in tokens), None) == pytest.approx(found, abs=0.01)


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("!!!!!!!!!!!!!!!!", True),
        ("aaaaaaaaaaaaaaaa", True),  # one word
        ("的的的的的的的的的的", True),
        ("______________", True),
        ("Paris.", False),
        ("Paris, and it is the largest city of the country.", False),
        ("法国的首都是巴黎，也是该国最大的城市。", False),
        ("", False),
        ("ha", False),
    ],
)
def test_repetition_without_tokens(text: str, loops: bool) -> None:
    assert (repetition(text, None) > 0.6) is loops


def test_half_a_character_at_the_end_is_no_damage() -> None:
    assert broken_characters("I like \ufffd\ufffd") == 0
    assert broken_characters("I \ufffdlike\ufffd it") == 2
