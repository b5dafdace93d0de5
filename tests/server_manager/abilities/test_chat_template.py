"""What chat templates tell of thinking. The templates are the decisive parts of real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server_manager.abilities.chat_template import Template, look_at_template, read_template

QWEN3 = """{%- for message in messages %}{{- '<|im_start|>' + message.role }}{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
QWEN3_THINKING_2507 = """{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n<think>\\n' }}
{%- endif %}"""
DEEPSEEK_R1 = "{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
DEEPSEEK_V31 = """{% if not thinking is defined %}{% set ns2 = 1 %}{% endif %}
{%- if add_generation_prompt and ns.is_last_user %}{{'<｜Assistant｜>'}}
{%- if not thinking %}{{'</think>'}}{%- else %}{{'<think>'}}{%- endif %}{% endif %}"""
GPT_OSS = """{%- if message.thinking %}{{ "thinking " + message.thinking }}{%- endif %}
{%- set thinking_hint = "thinking" %}{%- if add_generation_prompt %}<|start|>assistant{%- endif %}"""
PLAIN = "{{ bos_token }}{% for m in messages %}{{ m['content'] }} thinking{% endfor %}"


@pytest.mark.parametrize(
    ("text", "switch", "opens"),
    [
        (QWEN3, "enable_thinking", False),
        (QWEN3_THINKING_2507, None, True),
        (DEEPSEEK_R1, None, True),
        (DEEPSEEK_V31, "thinking", True),
        (GPT_OSS, None, False),
        (PLAIN, None, False),
        ("{%- if add_generation_prompt %}<|assistant|>\n<think>\n{%- endif %}", None, True),
    ],
    ids=["Qwen3", "Qwen3-Thinking-2507", "DeepSeek-R1", "DeepSeek-V3.1", "gpt-oss", "plain", "as plain text"],
)
def test_switch_and_opening(text: str, switch: str | None, opens: bool) -> None:
    assert look_at_template(text) == Template(switch, opens)


def found(files: dict[str, str], option: object = None) -> Template | None:
    config: dict[str, Any] = json.loads(files.get("tokenizer_config.json", "{}"))
    return read_template(option, files.get, config)


def test_the_file_of_its_own_goes_first(tmp_path: Path) -> None:
    config = json.dumps({"chat_template": PLAIN})
    assert found({"chat_template.jinja": QWEN3, "tokenizer_config.json": config}) == Template("enable_thinking", False)
    assert found({"tokenizer_config.json": config}) == Template(None, False)
    named = [{"name": "tool_use", "template": PLAIN}, {"name": "default", "template": QWEN3}]
    assert found({"tokenizer_config.json": json.dumps({"chat_template": named})}) == Template("enable_thinking", False)
    assert found({}) is None
    assert found({"tokenizer_config.json": '{"chat_template": 5}'}) is None


def test_the_flag_goes_before_the_files(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(QWEN3)
    assert found({"chat_template.jinja": PLAIN}, str(path)) == Template("enable_thinking", False)
    assert found({"chat_template.jinja": QWEN3}, "{{ messages }}") == Template(None, False)
    assert found({"chat_template.jinja": QWEN3}, str(tmp_path / "nowhere")) is None
