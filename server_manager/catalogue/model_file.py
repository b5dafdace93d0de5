"""One model file: vLLM's own ``--config`` YAML, and the dotenv file beside it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import yaml
from dotenv.parser import parse_stream

from server_manager import flags
from server_manager.errors import SpecError
from server_manager.model_spec import ModelSpec, option_error, option_warnings

LARGEST_FILE = 256 * 1024
"""Bytes. A model file has some hundred."""

_MOST_NODES = 20_000
"""After aliases are written out, as they are when a mapping becomes JSON."""

_DEEPEST = 40


class _Wrong(Protocol):
    """Makes the error for a place in the file."""

    def __call__(self, message: str, line: int | None, next_step: str = "", key: str | None = None) -> SpecError: ...


def read_model(path: Path, *, env: Mapping[str, str], shipped: bool, warnings: Iterable[str] = ()) -> ModelSpec:
    """The spec in a file. Raises ``SpecError`` with ``path`` and, where one is to blame, ``line`` and ``key``."""
    return parse_model(_read(path), path, env=env, shipped=shipped, warnings=warnings)


def parse_model(
    text: str, path: Path, *, env: Mapping[str, str], shipped: bool, warnings: Iterable[str] = ()
) -> ModelSpec:
    """The same for a text that is or will be the content of ``path``."""
    root, text_of_path = _compose(text, path), _shown(path)

    def wrong(message: str, line: int | None, next_step: str = "", key: str | None = None) -> SpecError:
        place = f"{text_of_path} line {line}" if line else text_of_path
        return SpecError(f"{place}: {message}", next_step, path=str(path), line=line, key=key)

    _check_size(root, wrong)
    options: dict[str, object] = {}
    lines: dict[str, int] = {}
    found = list(warnings)
    for key_node, value_node in _entries(root, wrong):
        line, written = key_node.start_mark.line + 1, str(key_node.value)
        key = flags.normalise(written)
        if key in lines:
            raise wrong(f"'{written}' stands in line {lines[key]} already.", line, "Remove one of the two.", key)
        lines[key] = line
        options[key] = _construct(value_node, wrong, line, key)
        if key == "model":
            continue
        if problem := option_error(key, options[key]):
            raise wrong(problem, line, key=key)
        doubts = option_warnings(key, options[key], written=written)
        if options[key] is False and _negatable(key):
            doubts.append(f"'{written}: false' works here, but not with `vllm serve --config`; 'no-{key}: true' does.")
        found += [f"{text_of_path} line {line}: {text}" for text in doubts]
    model = options.pop("model", None)
    if not isinstance(model, str) or not model:
        if "model" in lines:
            raise wrong("'model' is not a text.", lines["model"], "Write a hub id or the path of a folder.", "model")
        raise wrong("there is no 'model'.", None, "Add a line such as 'model: Qwen/Qwen2-0.5B-Instruct'.", "model")
    try:
        return ModelSpec(path.stem, model, options, env, path, tuple(found), shipped)
    except SpecError as error:
        raise wrong(error.message, lines["model"] if error.facts.get("key") == "model" else None, error.next_step,
                    str(error.facts.get("key"))) from error  # fmt: skip


def read_env(path: Path) -> tuple[dict[str, str], list[str]]:
    """The variables of a dotenv file, empty where there is none, and warnings. ``$`` in values stands for itself.

    Raises ``SpecError`` where the file cannot be read or a line is no assignment.
    """
    if not path.is_file():
        return {}, []
    variables: dict[str, str] = {}
    warnings: list[str] = []
    for binding in parse_stream(io.StringIO(_read(path))):
        line = binding.original.line + len(binding.original.string) - len(binding.original.string.lstrip("\n"))
        if binding.error or (binding.key is not None and "\0" in f"{binding.key}{binding.value}"):
            raise SpecError(
                f"{_shown(path)} line {line} is no assignment.", "Write NAME=value.", path=str(path), line=line
            )
        if binding.key is None:
            continue
        if binding.value is None:
            warnings.append(f"{_shown(path)} line {line}: '{binding.key}' has no value and is left out.")
            continue
        variables[binding.key] = binding.value
    return variables, warnings


def dump_model(spec: ModelSpec) -> str:
    """The YAML from which the same spec is read again. Raises ``SpecError`` for values that YAML cannot hold."""
    content: dict[str, object] = {"model": spec.model}
    for key, value in spec.options.items():
        if value is False and _negatable(key):  # the form that `vllm serve --config` understands too
            content[f"no-{key}"] = True
        else:
            content[key] = value
    try:
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)
    except yaml.YAMLError as error:
        raise SpecError(f"The options of {spec.name} cannot be written as YAML.", name=spec.name) from error


def dump_env(variables: Mapping[str, str]) -> str:
    """The dotenv file from which the same variables are read again."""
    return "".join(f"{key}='{_escaped(value)}'\n" for key, value in variables.items())


def _negatable(key: str) -> bool:
    flag = flags.find(key)
    return flag is not None and flag.negatable and "." not in key


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise SpecError(f"{_shown(path)} cannot be read: {error.strerror}.", path=str(path), line=None) from error
    if len(content) > LARGEST_FILE:
        raise SpecError(f"{_shown(path)} is larger than {LARGEST_FILE // 1024} KiB.", path=str(path), line=None)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"{_shown(path)} line {line}: the file is not UTF-8.", "Save it as UTF-8.", path=str(path), line=line
        ) from error


def _compose(text: str, path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        # ReaderError (a control character) has only a position
        line = mark.line + 1 if mark else text.count("\n", 0, getattr(error, "position", 0) or 0) + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise SpecError(f"{_shown(path)} line {line}: {problem}.", path=str(path), line=line, key=None) from error
    except RecursionError as error:
        raise SpecError(f"{_shown(path)} is nested too deeply.", path=str(path), line=None, key=None) from error


def _check_size(root: yaml.Node | None, wrong: _Wrong) -> None:
    """Refuses aliases that would fill the memory when written out, and those that contain themselves."""
    count, stack = 0, [(root, 0)]
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > _MOST_NODES or depth > _DEEPEST:
            raise wrong("the file is nested too deeply or refers to itself.", None)
        if isinstance(node, yaml.MappingNode):
            stack += [(child, depth + 1) for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            stack += [(child, depth + 1) for child in node.value]


def _entries(root: yaml.Node | None, wrong: _Wrong) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1 if root else None
        raise wrong(
            "the file is not a list of 'flag: value' lines.", line, "See `vllm serve --help=all` for the flags."
        )
    for key_node, _ in root.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            shown = getattr(key_node, "value", "") if isinstance(key_node, yaml.ScalarNode) else "this key"
            raise wrong(f"'{shown}' is not the name of a flag.", key_node.start_mark.line + 1)
    return list(root.value)


def _construct(node: yaml.Node, wrong: _Wrong, line: int, key: str) -> object:
    _refuse_duplicates(node, wrong)
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-01
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise wrong(f"{problem}.", mark.line + 1 if mark else line, key=key) from error
    finally:
        loader.dispose()


def _refuse_duplicates(node: yaml.Node, wrong: _Wrong) -> None:
    """PyYAML silently takes the last of two equal keys."""
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_duplicates(child, wrong)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    raise wrong(f"'{key_node.value}' stands here twice.", key_node.start_mark.line + 1)
                seen.add(key_node.value)
            _refuse_duplicates(value_node, wrong)
