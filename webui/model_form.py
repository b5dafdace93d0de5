"""Between a model's file and the form that edits it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from server_manager import (
    RESTARTS_VARIABLE,
    Catalogue,
    ModelSpec,
    SpecError,
    context_length,
    option_error,
    option_warnings,
    parse_shell_line,
    shell_line,
    split_choices,
    without_passwords,
)
from webui.context import AppContext
from webui.masked_values import masked_env, masked_options, unmasked, unmasked_url
from webui.switch_fields import SWITCH_VARIABLES, switch_env, switch_fields

SOURCES = ("default", "huggingface", "modelscope", "mirror")
DTYPES = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS = ("awq", "awq_marlin", "gptq", "gptq_marlin", "fp8", "bitsandbytes", "compressed-tensors", "gguf")
FIELDS = (
    "served-model-name",
    "max-model-len",
    "tensor-parallel-size",
    "gpu-memory-utilization",
    "dtype",
    "quantization",
    "chat-template",
    "trust-remote-code",
)
"""Flags that have a field of their own; all others are text."""
SOURCE_VARIABLES = ("VLLM_USE_MODELSCOPE", "HF_ENDPOINT")
_HUGGING_FACE = "https://huggingface.co"


def described(spec: ModelSpec, context: AppContext, *, secrets: bool = False) -> dict[str, Any]:
    """A model for the page: the form's fields, the file, the command. Without ``secrets`` they are masked."""
    defaults = context.manager.catalogue.defaults()
    reading = context.sampler.latest
    devices = reading.devices if reading else ()
    own = {key: value for key, value in spec.env.items() if defaults.get(key) != value}
    options = dict(spec.options) if secrets else masked_options(spec.options)
    others = {key: value for key, value in options.items() if not _has_field(key, value)}
    other_args = ModelSpec(spec.name, spec.model, others).serve_args()[1:]
    fields: dict[str, Any] = {key: spec.options.get(key) for key in FIELDS if _has_field(key, spec.options.get(key))}
    source, mirror = source_of(own)
    fields |= {"name": spec.name, "model": spec.model, "other_flags": shlex.join(other_args), "source": source}
    fields["mirror"] = mirror if secrets else without_passwords(mirror)
    fields["restarts"] = spec.restarts if RESTARTS_VARIABLE in own else None
    fields |= switch_fields(own)
    return {
        "name": spec.name,
        "model": spec.model,
        "options": options,
        "env": dict(spec.env) if secrets else masked_env(spec.env),
        "source": spec.source,
        "fields": fields,
        "path": str(spec.path) if spec.path else None,
        "shipped": spec.shipped,
        "warnings": spec.warnings,
        "command": shell_line(("vllm", "serve", *spec.serve_args()), spec.vllm_env),
        "command_lines": shell_line(("vllm", "serve", *spec.serve_args()), spec.vllm_env, multiline=True),
        "context_length": context_length(context.manager.local_files(spec).model, env=spec.env),
        "split_choices": split_choices(context.manager.local_files(spec), len(devices)),
    }


def spec_from(name: str, form: Mapping[str, Any], catalogue: Catalogue) -> ModelSpec:
    """The model that a filled-in form means. Raises ``SpecError``.

    Variables that the form does not show (tokens, …) are kept as they are in the model's file, also where its YAML
    cannot be read. What the form shows masked is that of the model ``based_on``, if that is another: a copy.
    """
    options: dict[str, object] = {
        key: _whole(key, value) for key, value in form["options"].items() if value not in (None, "")
    }
    warnings: list[str] = []
    if form["other_flags"].strip():
        line = f"vllm serve {shlex.quote(form['model'] or 'model')} {form['other_flags']}"
        others = parse_shell_line(line, name=name)
        options = {**others.options, **options}
        warnings += others.warnings
    shown = form["based_on"] if form["based_on"] in catalogue.names() else name
    kept = catalogue.get(shown).options if shown in catalogue.names() else {}
    options = unmasked(options, kept, masked_options(kept))
    env, kept_env = dict(catalogue.environment(name)), catalogue.environment(shown)
    given = {_variable(key, value): value for key, value in form["env"].items()}
    env |= unmasked(given, kept_env, masked_env(kept_env))
    with_fields = (*SOURCE_VARIABLES, RESTARTS_VARIABLE, *SWITCH_VARIABLES)
    env = {key: value for key, value in env.items() if key not in with_fields} | switch_env(form)
    if form.get("restarts") is not None:
        env[RESTARTS_VARIABLE] = str(int(form["restarts"]))
    # "default": what defaults.env says
    env |= source_env(form["source"], unmasked_url(form["mirror"], kept_env.get("HF_ENDPOINT", "")))
    spec = ModelSpec(name, form["model"], options, env)
    for key, value in spec.options.items():
        if problem := option_error(key, value):
            raise SpecError(problem, key=key)
        warnings += option_warnings(key, value)
    return replace(spec, warnings=tuple(dict.fromkeys(warnings)))


def source_of(env: Mapping[str, str]) -> tuple[str, str]:
    """The source that some variables choose, and the mirror's URL."""
    if env.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true"):
        return "modelscope", ""
    endpoint = env.get("HF_ENDPOINT", "").rstrip("/")
    if endpoint and endpoint != _HUGGING_FACE:
        return "mirror", endpoint
    return ("huggingface", "") if set(SOURCE_VARIABLES) & env.keys() else ("default", "")


def source_env(source: str, mirror: str) -> dict[str, str]:
    """The variables that choose a source. Raises ``SpecError`` for a mirror that is no URL."""
    if source == "mirror" and not mirror.strip().startswith(("http://", "https://")):
        raise SpecError(
            f"{mirror!r} is not the URL of a mirror.", "Write one such as https://hf-mirror.com.", key="mirror"
        )
    return {
        "modelscope": {"VLLM_USE_MODELSCOPE": "True"},
        "mirror": {"VLLM_USE_MODELSCOPE": "False", "HF_ENDPOINT": mirror.strip()},
        "huggingface": {"VLLM_USE_MODELSCOPE": "False", "HF_ENDPOINT": _HUGGING_FACE},
    }.get(source, {})


def _whole(key: str, value: object) -> object:
    """Browsers send 4096.0 for 4096. Raises ``SpecError`` for what is no number at all."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        raise SpecError(f"{key} is not a number.", key=key)
    return int(value) if value.is_integer() and key != "gpu-memory-utilization" else value


def _variable(name: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
        raise SpecError(f"{name!r} cannot be a variable of the environment.", "Use letters, digits and _.", key="env")
    return name


def _has_field(key: str, value: object) -> bool:
    """Whether a flag's value fits its field; a list or a false switch goes with the text."""
    if key not in FIELDS or value is None:
        return False
    return value is True if key == "trust-remote-code" else not isinstance(value, list | dict | bool)
