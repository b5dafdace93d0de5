"""What a form may say, and the line that comes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from server_manager.client import ServedModel
from server_manager.errors import LoadTestError, SpecError
from server_manager.load_test.command import bench_args, generator_env, secret_env, shown_line
from server_manager.load_test.plan import planned_rows
from server_manager.load_test.settings import PRESETS, check, check_fits, settings_from
from server_manager.load_test.target import Target, tokenizer_for
from server_manager.model_spec import ModelSpec

TARGET = Target(
    "http://127.0.0.1:8123", "smol", "/models/smol", 2048, "secret-key-of-the-server", ("--trust-remote-code",)
)


def line_for(**given: Any) -> list[str]:
    settings = settings_from(given)
    level = planned_rows(["smol"], settings, 7)[0].levels[-1]
    return list(bench_args(level, settings, TARGET))


def value(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_every_preset_can_run() -> None:
    for name, preset in PRESETS.items():
        check(preset)
        assert settings_from({"preset": name}) == preset
    assert PRESETS["tutorial"].output_len == 16


def test_fields_take_the_place_of_the_presets() -> None:
    found = settings_from({"preset": "long_prompt", "output_len": 5, "request_rates": [2, "inf"]})
    assert (found.input_len, found.output_len, found.request_rates, found.concurrency) == (4096, 5, (2, "inf"), ())


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"preset": "huge"}, "preset"),
        ({"inputlen": 5}, "inputlen"),
        ({"input_len": 0}, "input_len"),
        ({"input_len": "many"}, "input_len"),
        ({"concurrency": [0]}, "concurrency"),
        ({"concurrency": []}, "concurrency"),
        ({"concurrency": [1], "request_rates": [1]}, "concurrency"),
        ({"concurrency": [*range(1, 40)]}, "concurrency"),
        ({"request_rates": ["fast"]}, "request_rates"),
        ({"request_rates": [0]}, "request_rates"),
        ({"range_ratio": 1}, "range_ratio"),
        ({"dataset": "sharegpt"}, "dataset_path"),
        ({"dataset": "custom", "dataset_path": "/a.json"}, "dataset_path"),
        ({"output_len": None}, "output_len"),
        ({"goodput": {"itl": 5}}, "goodput"),
        ({"sla": {"ttft_p99_ms": 0}}, "sla"),
        ({"extra": "--result-dir /tmp"}, "extra"),
        ({"extra": "--save-d"}, "extra"),
        ({"extra": "--base_url=http://elsewhere"}, "extra"),
        ({"extra": "'open"}, "extra"),
    ],
)
def test_mistakes_are_told_with_their_field(given: dict[str, Any], key: str) -> None:
    with pytest.raises(SpecError) as caught:
        settings_from(given)
    assert caught.value.facts["key"] == key


def test_requests_must_fit_the_context() -> None:
    settings = settings_from({"input_len": 1600, "output_len": 160, "range_ratio": 0.25})
    check_fits(settings, None)
    check_fits(settings, 2200)
    with pytest.raises(SpecError, match="up to 2,200 tokens"):
        check_fits(settings, 2199)
    with pytest.raises(SpecError, match="chat template adds 30 tokens"):
        check_fits(settings, 2200, 30)


def test_a_level_of_concurrency_as_a_line() -> None:
    words = line_for(concurrency=[1, 64], goodput={"ttft": 200, "tpot": 50}, extra="--burstiness 0.5")
    assert words[:2] == ["bench", "serve"]
    assert (value(words, "--max-concurrency"), value(words, "--num-prompts")) == ("64", "128")
    assert (value(words, "--backend"), value(words, "--endpoint")) == ("openai-chat", "/v1/chat/completions")
    assert (value(words, "--tokenizer"), value(words, "--seed")) == ("/models/smol", "8")
    assert words[words.index("--goodput") :][:3] == ["--goodput", "ttft:200", "tpot:50"]
    assert {"--trust-remote-code", "--ignore-eos", "--save-detailed"} <= set(words)
    assert "--request-rate" not in words
    assert words[-2:] == ["--burstiness", "0.5"]


def test_request_rates_and_other_datasets_as_lines() -> None:
    assert value(line_for(request_rates=[0.5]), "--request-rate") == "0.5"
    assert value(line_for(request_rates=["inf"]), "--request-rate") == "inf"
    custom = line_for(dataset="custom", dataset_path="/data/my.jsonl", output_len=None)
    assert value(custom, "--custom-output-len") == "-1"
    assert "--skip-chat-template" in custom, "the chat route applies it"
    assert "--skip-chat-template" not in line_for(dataset="custom", dataset_path="/my.jsonl", api="completions")
    assert "--sharegpt-output-len" not in line_for(dataset="sharegpt", dataset_path="/s.json", output_len=None)
    assert value(line_for(range_ratio=0.25), "--random-range-ratio") == "0.25"


def test_the_key_is_in_no_line() -> None:
    words = tuple(line_for())
    shown = shown_line(words, TARGET)
    assert shown.startswith('OPENAI_API_KEY="$OPENAI_API_KEY" vllm bench serve')
    assert TARGET.api_key is not None
    assert TARGET.api_key not in shown + " ".join(words) + str(TARGET) + str(generator_env(TARGET, {}))
    assert secret_env(TARGET) == {"OPENAI_API_KEY": TARGET.api_key}
    assert secret_env(replace(TARGET, api_key=None)) == {"OPENAI_API_KEY": ""}, "not the one that the app has"


def test_requests_do_not_go_through_a_proxy_of_the_environment() -> None:
    assert generator_env(TARGET, {"NO_PROXY": "intra.net"})["no_proxy"] == "intra.net,127.0.0.1"


def test_the_tokenizer_is_the_servers_own(tmp_path) -> None:
    plain, served = settings_from({}), ServedModel("alias", 2048, "/models/on/another/machine")
    spec = ModelSpec("m", "Qwen/Qwen2-0.5B")
    assert tokenizer_for(plain, spec, served) == "Qwen/Qwen2-0.5B"
    assert tokenizer_for(plain, ModelSpec("m", "x/y", {"tokenizer": "z/t"}), served) == "z/t"
    assert tokenizer_for(settings_from({"tokenizer": "a/b"}), spec, served) == "a/b"
    assert tokenizer_for(plain, None, served) == "alias"
    assert tokenizer_for(plain, None, ServedModel("alias", None, "Qwen/Qwen2-7B")) == "Qwen/Qwen2-7B"
    assert tokenizer_for(plain, None, ServedModel("alias", None, str(tmp_path))) == str(tmp_path)
    with pytest.raises(LoadTestError, match="no folder") as caught:
        tokenizer_for(plain, ModelSpec("m", "/gone"), served)
    assert "Set the tokenizer" in caught.value.next_step
