"""The flag table. ``test_vllm_parser.py`` holds it against vLLM's own parser."""

from __future__ import annotations

import pytest

from server_manager import flags


def test_known_forms() -> None:
    size = flags.find("tensor_parallel_size")
    assert size is not None
    assert size.name == "tensor-parallel-size"
    assert flags.find_form("-tp") is size
    assert flags.find_form("--tensor-parallel-size") is size
    assert not size.boolean
    assert flags.find("device-memory-utilization") is flags.find("gpu-memory-utilization")
    assert flags.find("compilation-config.pass_config") is flags.find("compilation-config")


def test_switches_and_their_negation() -> None:
    caching = flags.find("enable-prefix-caching")
    assert caching is not None
    assert caching.boolean
    assert flags.find_negated("no-enable-prefix-caching") is caching
    assert flags.find_negated("no_enable_prefix_caching") is caching
    assert flags.find_negated("no-disable-log-stats") is None  # a switch without that form
    assert flags.find_negated("no-max-model-len") is None


def test_values() -> None:
    dtype = flags.find("dtype")
    assert dtype is not None
    assert "bfloat16" in dtype.choices
    parser = flags.find("tool-call-parser")
    assert parser is not None
    assert not parser.choices  # a plugin may register more
    assert flags.find("served-model-name").takes == "many"  # type: ignore[union-attr]
    assert flags.find("hf-token").takes == "optional"  # type: ignore[union-attr]
    assert flags.find("speculative-config").json  # type: ignore[union-attr]
    assert flags.find("middleware").repeatable  # type: ignore[union-attr]


def test_an_unambiguous_beginning_counts_as_the_flag() -> None:
    assert flags.find_form("--max-model") is flags.find("max-model-len")
    assert flags.find_form("--max-num") is None  # several begin so


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("max-modle-len", "max-model-len"),
        ("max_modle_len", "max-model-len"),
        ("tp", "tensor-parallel-size"),
        ("gpu-memory-utilisation", "gpu-memory-utilization"),
        ("no-enable-prefix-cachin", "no-enable-prefix-caching"),
        ("modle", "model"),
        ("--max-model-len", "max-model-len"),
        ("zzz", None),
    ],
)
def test_nearest(typo: str, meant: str | None) -> None:
    assert flags.nearest(typo) == meant


def test_help_is_a_sentence_for_every_flag() -> None:
    for flag in flags.flag_table().flags:
        assert 4 < len(flag.help) < 400, flag
        assert "(default:" not in flag.help, flag
