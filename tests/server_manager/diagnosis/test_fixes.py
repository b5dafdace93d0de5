"""The corrections: computed from what the log says, applied to a model, shown as a difference."""

from __future__ import annotations

import pytest

from server_manager.diagnosis import Fix, diagnose, diagnose_refusal
from server_manager.diagnosis.correction import apply_fix, difference
from server_manager.diagnosis.fixes import ask_env, round_length, split_choices, with_env, with_option, without_option
from server_manager.errors import InsufficientMemory, SpecError
from server_manager.model_spec import ModelSpec


@pytest.mark.parametrize(
    ("estimate", "length"),
    [(15, 0), (128, 128), (135, 128), (1696, 1664), (8191, 8064), (8192, 8192), (40_000, 39_936)],
)
def test_a_context_length_is_never_longer_than_the_estimate(estimate: int, length: int) -> None:
    assert round_length(estimate) == length


@pytest.mark.parametrize("text", ["'a', 'b', 'c'", "a, b, c", "{ a,b,c }", "['a', 'b', 'c']"])
def test_choices_as_messages_write_them(text: str) -> None:
    assert split_choices(text) == ["a", "b", "c"]


def fixes(message: str, **options: object) -> list[str]:
    lines = [f"(EngineCore pid=1) ERROR 11-22 10:00:00 [core.py:1] {line}" for line in message.split("\n")]
    found = diagnose(lines, options={key.replace("_", "-"): value for key, value in options.items()})
    assert found is not None
    assert found.known
    return [fix.label for fix in found.fixes]


HEADS = "ValueError: Total number of attention heads ({}) must be divisible by tensor parallel size ({})."
GPUS = "ValueError: World size ({}) is larger than the number of available GPUs ({}) in this node."
FREE = (
    "ValueError: Free memory on device cuda:0 ({}/79.18 GiB) on startup is less than desired GPU memory utilization "
    "(0.92, 72.84 GiB)."
)


@pytest.mark.parametrize(("heads", "size", "better"), [(9, 4, "3"), (14, 4, "2"), (28, 8, "7"), (12, 8, "6")])
def test_tensor_parallel_size_by_which_the_heads_can_be_divided(heads: int, size: int, better: str) -> None:
    assert fixes(HEADS.format(heads, size)) == [f"Start with --tensor-parallel-size {better}"]


def test_one_gpu_needs_no_flag() -> None:
    assert fixes(HEADS.format(7, 4)) == ["Start without --tensor-parallel-size"]
    assert fixes(GPUS.format(2, 1), tensor_parallel_size=2) == ["Start without --tensor-parallel-size"]


def test_tensor_parallel_size_for_the_gpus_that_are_there() -> None:
    assert fixes(GPUS.format(8, 4), tensor_parallel_size=8) == ["Start with --tensor-parallel-size 4"]
    assert fixes(GPUS.format(8, 6), tensor_parallel_size=8) == ["Start with --tensor-parallel-size 4"]
    assert fixes(GPUS.format(8, 4), tensor_parallel_size=4, pipeline_parallel_size=2) == [
        "Start with --tensor-parallel-size 2"
    ]


def test_utilization_below_what_is_free_and_none_where_nothing_is() -> None:
    assert fixes(FREE.format("40.00")) == ["Start with --gpu-memory-utilization 0.5"]
    assert fixes(FREE.format("1.20")) == []


def test_a_parser_is_corrected_only_where_a_name_is_close() -> None:
    message = "KeyError: \"Reasoning parser '{}' not found. Available parsers: deepseek_r1, granite, qwen3\""
    assert fixes(message.format("qwen-3")) == [
        "Start with --reasoning-parser qwen3",
        "Start without --reasoning-parser",
    ]
    assert fixes(message.format("nope")) == ["Start without --reasoning-parser"]


def test_trust_remote_code_says_what_it_does() -> None:
    (label,) = fixes("ValueError: x requires you to execute the configuration file in that repo")
    assert "runs Python code from the model's repository on this machine" in label


def test_a_source_that_was_tried_is_not_offered() -> None:
    lines = ["OSError: We couldn't connect to 'https://hf-mirror.com' to load the files"]
    found = diagnose(lines, env={"HF_ENDPOINT": "https://hf-mirror.com"})
    assert found is not None
    assert [fix.id for fix in found.fixes] == ["modelscope", "hub-itself"]
    offline = diagnose(lines, env={"HF_HUB_OFFLINE": "1"})
    assert offline is not None
    assert offline.cause == "hub_offline"


SPEC = ModelSpec("m", "org/model", {"max-model-len": 32768, "port": 8000}, {"HF_TOKEN": "old"})


def test_applying_a_fix() -> None:
    assert apply_fix(SPEC, with_option("max-model-len", 8192)).options == {"max-model-len": 8192, "port": 8000}
    assert apply_fix(SPEC, without_option("port")).options == {"max-model-len": 32768}
    assert apply_fix(SPEC, with_env("HF_HUB_OFFLINE", "0")).env == {"HF_TOKEN": "old", "HF_HUB_OFFLINE": "0"}
    assert apply_fix(SPEC, ask_env("HF_TOKEN"), " new ").env == {"HF_TOKEN": "new"}


def test_a_token_of_the_environment_takes_the_place_of_the_flag() -> None:
    spec = ModelSpec("m", "org/model", {"hf-token": "old"})
    mended = apply_fix(spec, ask_env("HF_TOKEN"), "new")
    assert (mended.options, mended.env) == ({}, {"HF_TOKEN": "new"})


@pytest.mark.parametrize("value", [None, "", "  ", "two\nlines", "nul\0"])
def test_what_is_asked_for_must_be_a_line(value: str | None) -> None:
    with pytest.raises(SpecError):
        apply_fix(SPEC, ask_env("HF_TOKEN"), value)


def test_the_difference_of_the_command() -> None:
    change = difference(SPEC, Fix("x", "x", {"max-model-len": None, "dtype": "half"}, {"A": "b c"}))
    assert change.removed == ("--max-model-len 32768",)
    assert change.added == ("A='b c'", "--dtype half")


def test_a_secret_is_never_in_the_difference() -> None:
    change = difference(SPEC, ask_env("HF_TOKEN"))
    assert (change.removed, change.added) == ((), ('HF_TOKEN="$HF_TOKEN"',))


def test_refusals_have_fixes_too() -> None:
    busy = InsufficientMemory("m asks for too much.", "Lower it.", free_bytes=40 * 2**30, total_bytes=80 * 2**30)
    assert [fix.label for fix in diagnose_refusal(busy).fixes] == ["Start with --gpu-memory-utilization 0.49"]
    taken = SpecError("Port 8000 is taken.", "Remove it.", key="port", removable=True)
    assert [fix.label for fix in diagnose_refusal(taken).fixes] == ["Start without --port"]
    missing = diagnose_refusal(SpecError("There is no folder /nope.", "Correct it.", key="model"))
    assert (missing.cause, missing.title, missing.fixes) == ("invalid_model", "There is no folder /nope.", ())
