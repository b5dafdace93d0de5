"""The abilities of a model by its files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from server_manager.abilities import book as book_module
from server_manager.abilities.book import UNKNOWN, Abilities, AbilityBook
from server_manager.abilities.recommendations import families
from server_manager.abilities.sight import sees
from server_manager.model_spec import ModelSpec
from server_manager.sampling import request_fields

HYBRID = "{% if add_generation_prompt %}{% if enable_thinking is false %}{{ '<think></think>' }}{% endif %}{% endif %}"


@pytest.fixture(autouse=True)
def _always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "_LOOK_SECONDS", -1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "config.json", {"model_type": "qwen3"})
    write(tmp_path, "generation_config.json", {"temperature": 0.6, "top_k": 20, "top_p": 0.95})
    (tmp_path / "chat_template.jinja").write_text(HYBRID)
    return tmp_path


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


def spec_of(folder: Path, **options: object) -> ModelSpec:
    flags = {name.replace("_", "-"): value for name, value in options.items()}
    return ModelSpec(name="m", model=str(folder), options=flags)


def look(folder: Path, **options: object) -> Abilities:
    return AbilityBook(lambda spec: spec).look(spec_of(folder, **options))


def test_qwen3_can_be_told_to_think_or_not(folder: Path) -> None:
    assert look(folder).as_dict() == {
        "thinking": {
            "switch": True,
            "recommended": {
                "on": {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0},
                "off": {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.0},
            },
        },
        "vision": False,
    }
    own = look(folder, override_generation_config={"temperature": 0.2}).as_dict()["thinking"]["recommended"]
    assert (own["on"]["temperature"], own["off"]["temperature"]) == (0.2, 0.2), "what the user has set stands"


def qwen35(folder: Path, name: str) -> Abilities:
    """The same files in a folder of another name."""
    renamed = folder / name
    renamed.mkdir()
    write(renamed, "config.json", {"model_type": "qwen3_5"})
    write(renamed, "generation_config.json", {"top_k": 30})
    (renamed / "chat_template.jinja").write_text(HYBRID)
    return look(renamed)


def test_sizes_of_a_family_differ_by_name(folder: Path) -> None:
    small, large, renamed = (qwen35(folder, name).sampling for name in ("Qwen3.5-2B", "Qwen3.5-27B-FP8", "mine"))
    assert (small.plain["temperature"], large.plain["temperature"]) == (1.0, 0.7)
    assert (large.thinking["presence_penalty"], large.thinking["top_k"]) == (1.5, 20)
    assert "presence_penalty" not in renamed.thinking, "versions differ in it"


def test_where_the_template_decides_the_models_own_file_goes_first(folder: Path) -> None:
    found = qwen35(folder, "Qwen3.5-27B").sampling.auto
    assert found["top_k"] == 30, "of its generation_config.json"
    assert found["temperature"] == 1.0, "which does not tell; it thinks where nobody says otherwise"


def test_models_whose_prompts_vllm_writes_have_its_switch(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    write(folder, "config.json", {"model_type": "deepseek_v4"})
    found = look(folder)
    assert found.template_kwargs(False) == {"thinking": False}
    assert (found.begins_inside(None), found.begins_inside(False)) == (True, False)


def test_every_row_of_the_table_can_be_sent() -> None:
    for family in families():
        assert family.source
        for fields in (family.thinking, family.plain):
            assert request_fields(fields) == fields


def test_without_a_switch_both_modes_are_the_models_own(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    own = {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
    assert look(folder).as_dict()["thinking"] == {"switch": False, "recommended": {"on": own, "off": own}}


def test_files_that_are_not_here_tell_nothing(tmp_path: Path) -> None:
    assert look(tmp_path).as_dict() == {"thinking": None, "vision": None}
    assert UNKNOWN.as_dict() == {"thinking": None, "vision": None}


def test_files_that_make_no_sense_tell_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text("[]")
    assert look(tmp_path).as_dict() == {"thinking": None, "vision": None}


def test_a_file_is_read_again_when_it_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = AbilityBook(lambda spec: spec)
    spec = spec_of(folder)
    first = found.look(spec)
    assert found.look(spec) is first
    write(folder, "config.json", {"model_type": "qwen2_5_vl", "vision_config": {"depth": 32}})
    os.utime(folder / "config.json", (1, 1))
    assert found.look(spec).vision is True
    assert found.known(spec) is None, "too old to be taken without a look"
    monkeypatch.setattr(book_module, "_LOOK_SECONDS", 60.0)
    assert found.known(spec) is found.look(spec)
    assert found.known(spec_of(folder, seed=1)) is None, "the model's own file has changed"


async def test_several_at_once(folder: Path) -> None:
    found = await AbilityBook(lambda spec: spec).of([spec_of(folder)])
    assert found["m"].vision is False


def test_the_wish_becomes_the_templates_own_variable(folder: Path) -> None:
    hybrid = look(folder)
    assert hybrid.template_kwargs(None) == {}
    assert hybrid.template_kwargs(False) == {"enable_thinking": False}
    (folder / "chat_template.jinja").write_text("{% if thinking %}{{ 1 }}{% endif %}")
    assert look(folder).template_kwargs(True) == {"thinking": True}
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert look(folder).template_kwargs(True) == {}
    assert UNKNOWN.template_kwargs(True) == {"enable_thinking": True, "thinking": True}


def test_answers_that_begin_within_the_thinking(folder: Path) -> None:
    always = "{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}"
    (folder / "chat_template.jinja").write_text(always)
    assert look(folder).begins_inside(None)
    assert not look(folder, reasoning_parser="qwen3").begins_inside(None), "vLLM tells it apart"
    chosen = (
        "{% if add_generation_prompt %}{% if thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(chosen)
    assert [look(folder).begins_inside(thinking) for thinking in (True, False, None)] == [True, False, False]


@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, {}, False),
        ({"vision_config": {"depth": 1}}, {}, True),
        ({"vision_config": None}, {}, False),
        ({"thinker_config": {"vision_config": {"depth": 1}}}, {}, True),
        ({"audio_config": {"d_model": 1}, "architectures": ["WhisperForConditionalGeneration"]}, {}, False),
        ({"architectures": ["MiniCPMV"]}, {}, True),
        ({"vision_encoder": {"hidden_size": 1}}, {}, True),
        ({"vision_config": {"depth": 1}}, {"language-model-only": True}, False),
        ({"vision_config": {"depth": 1}}, {"limit-mm-per-prompt": '{"image": 0}'}, False),
        ({"vision_config": {"depth": 1}}, {"limit-mm-per-prompt": {"image": {"count": 0}}}, False),
        ({"vision_config": {"depth": 1}}, {"limit-mm-per-prompt": {"image": 4}}, True),
    ],
)
def test_sight(config: Mapping[str, Any], options: Mapping[str, object], expected: bool) -> None:
    assert sees(config, options) is expected
