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
QWEN35 = """{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}
{%- else %}{{- '<think>\\n' }}{%- endif %}{%- endif %}"""
QWEN35_SMALL = QWEN35.replace("is false", "is not true")
KIMI_K25 = """{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>
{%- if thinking is defined and thinking is false -%}<think></think>{%- else -%}<think>{%- endif -%}{%- endif -%}"""
SMOLLM3 = """{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- if enable_thinking -%}{%- set reasoning_mode = "/think" -%}{%- endif -%}
{%- if add_generation_prompt -%}{{ "<|im_start|>assistant\\n" }}{%- endif -%}"""
NEMOTRON3 = """{%- set enable_thinking = enable_thinking if enable_thinking is defined else True %}
{%- if add_generation_prompt %}{%- if enable_thinking %}{{- '<|im_start|>assistant\\n<think>\\n' }}
{%- else %}{{- '<|im_start|>assistant\\n<think></think>' }}{%- endif %}{%- endif %}"""
MINICPM_V45 = """{%- set enable_thinking = enable_thinking | default(false) %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- if enable_thinking is defined and enable_thinking is true %}{{- '<think>\\n' }}{%- endif %}{%- endif %}"""
GEMMA4 = """{%- set thinking = enable_thinking | default(false) -%}{%- if thinking -%}{{- '<|think|>' -}}{%- endif -%}
{%- if add_generation_prompt -%}{{- '<|turn>model\\n' -}}{%- endif -%}"""
GRANITE33 = """{%- if thinking %}{{ ' Respond to every user query in a comprehensive and detailed way.' }}{%- endif %}
{%- if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"""
OWN_VARIABLE = """{%- for message in messages %}{%- set thinking = message.thinking or message.reasoning -%}
{%- if thinking and keep_thinking %}{{ thinking }}{%- endif %}{%- endfor %}{{ f(thinking=1) }}"""
PLAIN = "{{ bos_token }}{% for m in messages %}{{ m['content'] }} thinking{% endfor %}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (QWEN3, Template("enable_thinking", opens_thinking=False, thinks_unasked=True)),
        (QWEN3_THINKING_2507, Template(None, opens_thinking=True)),
        (QWEN35, Template("enable_thinking", opens_thinking=True, thinks_unasked=True)),
        (QWEN35_SMALL, Template("enable_thinking", opens_thinking=True)),
        (DEEPSEEK_R1, Template(None, opens_thinking=True)),
        (DEEPSEEK_V31, Template("thinking", opens_thinking=True)),
        (KIMI_K25, Template("thinking", opens_thinking=True, thinks_unasked=True)),
        (SMOLLM3, Template("enable_thinking", opens_thinking=False, thinks_unasked=True)),
        (NEMOTRON3, Template("enable_thinking", opens_thinking=True, thinks_unasked=True)),
        (MINICPM_V45, Template("enable_thinking", opens_thinking=True)),
        (GEMMA4, Template("enable_thinking", opens_thinking=False)),
        (GRANITE33, Template("thinking", opens_thinking=False)),
        (GPT_OSS, Template(None, opens_thinking=False)),
        (OWN_VARIABLE, Template(None, opens_thinking=False)),
        (PLAIN, Template(None, opens_thinking=False)),
        ("{%- if add_generation_prompt %}<|assistant|>\n<think>\n{%- endif %}", Template(None, opens_thinking=True)),
    ],
    ids=[
        "Qwen3", "Qwen3-Thinking-2507", "Qwen3.5", "Qwen3.5-0.8B", "DeepSeek-R1", "DeepSeek-V3.1", "Kimi-K2.5",
        "SmolLM3", "Nemotron-3", "MiniCPM-V-4.5", "Gemma-4", "Granite-3.3", "gpt-oss", "its own variable", "plain",
        "as plain text",
    ],
)  # fmt: skip
def test_switch_and_opening(text: str, expected: Template) -> None:
    assert look_at_template(text) == expected


HYBRID = look_at_template(QWEN3)


def found(files: dict[str, str], option: object = None) -> Template | None:
    config: dict[str, Any] = json.loads(files.get("tokenizer_config.json", "{}"))
    return read_template(option, files.get, config)


def test_the_file_of_its_own_goes_first(tmp_path: Path) -> None:
    config = json.dumps({"chat_template": PLAIN})
    assert found({"chat_template.jinja": QWEN3, "tokenizer_config.json": config}) == Template(
        "enable_thinking", False, True
    )
    assert found({"tokenizer_config.json": config}) == Template(None, False)
    named = [{"name": "tool_use", "template": PLAIN}, {"name": "default", "template": QWEN3}]
    assert found({"tokenizer_config.json": json.dumps({"chat_template": named})}) == Template(
        "enable_thinking", False, True
    )
    assert found({}) is None
    assert found({"tokenizer_config.json": '{"chat_template": 5}'}) is None


def test_the_flag_goes_before_the_files(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(QWEN3)
    assert found({"chat_template.jinja": PLAIN}, str(path)) == HYBRID
    assert found({"chat_template.jinja": QWEN3}, "{{ messages }}") == Template(None, False)
    assert found({"chat_template.jinja": QWEN3}, str(tmp_path / "nowhere")) is None
