"""The ``vllm bench serve`` line of one level."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from server_manager.load_test.run import Level
from server_manager.load_test.settings import LoadSettings
from server_manager.load_test.target import Target
from server_manager.shell_line import shell_line

KEY_VARIABLE = "OPENAI_API_KEY"
"""Where the generator reads the server's key; as an argument everybody on the machine could see it."""
_BACKENDS = {"chat": "openai-chat", "completions": "openai"}
ROUTES = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


def bench_args(level: Level, settings: LoadSettings, target: Target) -> tuple[str, ...]:
    """What follows ``vllm``, without the place of the result. Raises ``SpecError`` where ``extra`` cannot be read."""
    words = [
        *("bench", "serve", "--backend", _BACKENDS[settings.api]),
        *("--base-url", target.base_url, "--endpoint", ROUTES[settings.api]),
        *("--model", target.model, "--tokenizer", target.tokenizer, *target.flags),
        *_dataset_args(settings),
        *("--num-prompts", str(level.num_prompts), "--seed", str(level.seed)),
    ]
    if level.concurrency is not None:
        words += ["--max-concurrency", str(level.concurrency)]
    else:
        words += ["--request-rate", "inf" if level.request_rate is None else f"{level.request_rate:g}"]
    words += ["--num-warmups", str(settings.num_warmups), "--temperature", f"{settings.temperature:g}"]
    if settings.ignore_eos:
        words.append("--ignore-eos")
    words += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99"]
    if settings.goodput:
        words += ["--goodput", *(f"{name}:{limit:g}" for name, limit in settings.goodput.items())]
    return (*words, "--save-result", "--save-detailed", *settings.extra_args())


def result_args(path: Path) -> tuple[str, ...]:
    """Where the result goes; for us alone, so not in the line that people see."""
    return ("--result-dir", str(path.parent), "--result-filename", path.name)


def shown_line(args: tuple[str, ...], target: Target) -> str:
    """The line for a shell, without secrets."""
    key = {KEY_VARIABLE: "secret"} if target.api_key else {}  # is shown as the variable of the reader's shell
    return shell_line(("vllm", *args), {**target.env, **key})


def generator_env(target: Target, environ: Mapping[str, str]) -> dict[str, str]:
    """What is added to the generator's environment, but for the secrets."""
    # It would take a proxy of the environment even for this machine.
    host = urlsplit(target.base_url).hostname or ""
    past = ",".join(filter(None, (environ.get("NO_PROXY") or environ.get("no_proxy", ""), host)))
    return {
        **target.env,
        "PYTHONUNBUFFERED": "1",  # else what it says about its phases comes at its end
        "TOKENIZERS_PARALLELISM": "false",
        "NO_PROXY": past,
        "no_proxy": past,
    }


def secret_env(target: Target) -> dict[str, str]:
    """Likewise, the secrets. Where the server wants no key it gets none: the environment may hold one for others."""
    return {**target.secret_env, KEY_VARIABLE: target.api_key or ""}


def _dataset_args(settings: LoadSettings) -> tuple[str, ...]:
    if settings.dataset == "random":
        ratio = ("--random-range-ratio", f"{settings.range_ratio:g}") if settings.range_ratio else ()
        lengths = ("--random-input-len", str(settings.input_len), "--random-output-len", str(settings.output_len))
        return ("--dataset-name", "random", *lengths, *ratio)
    path = ("--dataset-name", settings.dataset, "--dataset-path", os.path.expanduser(settings.dataset_path))
    if settings.dataset == "sharegpt":
        return (*path, *(("--sharegpt-output-len", str(settings.output_len)) if settings.output_len else ()))
    # The chat route applies the model's template itself.
    template = ("--skip-chat-template",) if settings.api == "chat" else ()
    return (*path, "--custom-output-len", str(settings.output_len or -1), *template)
