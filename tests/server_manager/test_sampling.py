"""The table of sampling parameters and the request fields made from it."""

from __future__ import annotations

import math

import pytest

from server_manager.errors import SpecError
from server_manager.sampling import OFF, SAMPLING_PARAMS, SamplingParam, defaults_for, request_fields


def test_the_four_that_are_always_shown() -> None:
    primary = [row.name for row in SAMPLING_PARAMS if row.primary]
    assert primary == ["temperature", "top_p", "repetition_penalty", "max_tokens"]


@pytest.mark.parametrize("row", SAMPLING_PARAMS, ids=lambda row: row.name)
def test_every_row(row: SamplingParam) -> None:
    for value in (row.minimum, row.maximum, *([row.default] if row.default is not None else [])):
        (sent,) = request_fields({row.name: value}).values()
        assert sent == value
        assert type(sent) is (int if row.kind == "int" else float)
    for bad in (row.minimum - 1, row.maximum + 1, math.nan, math.inf, "1", True, [1]):
        with pytest.raises(SpecError) as caught:
            request_fields({row.name: bad})
        assert caught.value.facts["key"] == row.name
        assert row.name in caught.value.message
    assert request_fields({row.name: None}) == request_fields({row.name: OFF}) == {}
    assert row.help.endswith(".")
    assert row.help_zh.endswith("。")
    # a slider must be able to stand on its default
    if row.default is not None:
        steps = (row.default - row.minimum) / row.step
        assert math.isclose(steps, round(steps), abs_tol=1e-6)


def test_names_occur_once() -> None:
    names = [row.name for row in SAMPLING_PARAMS]
    assert len(names) == len(set(names))


def test_whole_numbers_from_sliders_become_integers() -> None:
    assert request_fields({"max_tokens": 512.0, "temperature": 1}) == {"max_tokens": 512, "temperature": 1.0}
    with pytest.raises(SpecError, match="whole number"):
        request_fields({"top_k": 1.5})


def test_an_unknown_name() -> None:
    with pytest.raises(SpecError, match="temprature"):
        request_fields({"temprature": 1})


def test_the_models_own_defaults_go_before_ours_and_are_clamped() -> None:
    plain = defaults_for({})
    assert set(plain) == {row.name for row in SAMPLING_PARAMS}
    assert plain["temperature"] == 0.7
    assert plain["seed"] is None
    own = defaults_for({"temperature": 0.6, "top_k": -1, "top_p": 0, "max_tokens": 10**9, "unheard_of": 1})
    assert (own["temperature"], own["top_k"], own["top_p"], own["max_tokens"]) == (0.6, 0, 0.01, 32768)
    assert own["repetition_penalty"] == plain["repetition_penalty"]
    request_fields(own)
