"""What a model's own files recommend, from a folder and from the caches of both hubs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from server_manager.generation_config import context_length, is_context_scaled, recommended_for, recommended_sampling
from server_manager.model_spec import ModelSpec

QWEN = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "eos_token_id": 1}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _write(folder: Path, content: object, name: str = "generation_config.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture(autouse=True)
def _no_caches_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))


def test_a_local_folder(tmp_path: Path) -> None:
    folder = _write(tmp_path / "我的 模型", QWEN)
    assert recommended_sampling(str(folder)) == {
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "repetition_penalty": 1.05,
    }


def test_max_new_tokens_and_do_sample(tmp_path: Path) -> None:
    folder = _write(tmp_path / "m", {"do_sample": False, "max_new_tokens": 512, "temperature": 0.6})
    assert recommended_sampling(str(folder)) == {"max_tokens": 512, "temperature": 0.6}


def test_nothing_known(tmp_path: Path) -> None:
    assert recommended_sampling("org/not-downloaded") == {}
    assert recommended_sampling(str(tmp_path / "missing")) == {}
    assert recommended_sampling("../../etc/passwd") == {}
    assert recommended_sampling("not an id") == {}
    assert recommended_sampling("a/b c?") == {}
    assert context_length("org/not-downloaded") is None


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'"x"', b"[" * 100_000])
def test_a_malformed_file_is_logged_and_ignored(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "generation_config.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert recommended_sampling(str(tmp_path)) == {}
    assert "generation_config.json" in caplog.text


def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    folder = _write(tmp_path / "m", {"temperature": "0.7", "top_p": None, "top_k": True, "min_p": [1]})
    (folder / "x").touch()
    assert recommended_sampling(str(folder)) == {}
    (folder / "generation_config.json").write_text('{"temperature": NaN, "top_p": 0.5}')
    assert recommended_sampling(str(folder)) == {"top_p": 0.5}


def _in_hf_cache(root: Path, revision: str = "main") -> None:
    repository = root / "models--Qwen--Qwen2-0.5B-Instruct"
    _write(repository / "snapshots" / COMMIT, QWEN)
    _write(repository / "snapshots" / COMMIT, {"max_position_embeddings": 32768}, "config.json")
    (repository / "refs").mkdir()
    (repository / "refs" / revision).write_text(COMMIT)


def test_the_hugging_face_cache(tmp_path: Path) -> None:
    _in_hf_cache(tmp_path / "hf")
    assert recommended_sampling("Qwen/Qwen2-0.5B-Instruct")["top_k"] == 20
    assert recommended_sampling("Qwen/Qwen2-0.5B-Instruct", revision=COMMIT)["top_k"] == 20
    assert recommended_sampling("Qwen/Qwen2-0.5B-Instruct", revision="other") == {}
    assert context_length("Qwen/Qwen2-0.5B-Instruct") == 32768


def test_a_cache_named_by_the_models_own_environment(tmp_path: Path) -> None:
    _in_hf_cache(tmp_path / "elsewhere")
    spec = ModelSpec("x", "Qwen/Qwen2-0.5B-Instruct", env={"HF_HUB_CACHE": str(tmp_path / "elsewhere")})
    assert recommended_for(spec)["top_k"] == 20


@pytest.mark.parametrize(
    "folder",
    [
        "models/Qwen--Qwen2.5-0.5B/snapshots/master",
        "models/Qwen/Qwen2___5-0___5B",
        "hub/models/Qwen/Qwen2___5-0___5B",
    ],
)
def test_the_modelscope_cache(folder: str, tmp_path: Path) -> None:
    _write(tmp_path / "ms" / folder, QWEN)
    assert recommended_sampling("Qwen/Qwen2.5-0.5B")["top_k"] == 20


def test_the_flags_of_a_spec_count_as_in_vllm(tmp_path: Path) -> None:
    model = str(_write(tmp_path / "model", QWEN))
    other = str(_write(tmp_path / "other", {"temperature": 0.1}))
    assert recommended_for(ModelSpec("x", model))["temperature"] == 0.7
    assert recommended_for(ModelSpec("x", model, {"generation-config": "vllm"})) == {}
    assert recommended_for(ModelSpec("x", model, {"generation-config": other})) == {"temperature": 0.1}
    override = {"generation-config": other, "override-generation-config": {"max_new_tokens": 9}}
    assert recommended_for(ModelSpec("x", model, override)) == {"temperature": 0.1, "max_tokens": 9}
    as_text = {"generation-config": "vllm", "override-generation-config": '{"top_p": 0.5}'}
    assert recommended_for(ModelSpec("x", model, as_text)) == {"top_p": 0.5}
    broken = {"generation-config": "vllm", "override-generation-config": "{"}
    assert recommended_for(ModelSpec("x", model, broken)) == {}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 8192}, 8192),
        ({"text_config": {"max_position_embeddings": 4096}}, 4096),
        ({"max_position_embeddings": "8192"}, None),
        ({"text_config": [1]}, None),
        ({}, None),
    ],
)
def test_context_length(config: object, length: int | None, tmp_path: Path) -> None:
    assert context_length(str(_write(tmp_path / "m", config, "config.json"))) == length


@pytest.mark.parametrize(
    ("config", "scaled"),
    [
        ({}, False),
        ({"rope_scaling": None}, False),
        ({"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}}, False),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, True),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, True),
    ],
)
def test_contexts_that_vllm_makes_longer(config: object, scaled: bool, tmp_path: Path) -> None:
    assert is_context_scaled(str(_write(tmp_path / "m", config, "config.json"))) is scaled
