"""The command line: flags, values, parsers."""

from __future__ import annotations

from server_manager.diagnosis.fixes import (
    argument_choice,
    argument_removed,
    both,
    nearest_choice,
    removing,
    setting,
    unknown_flags,
    without_option,
)
from server_manager.diagnosis.report import Fix
from server_manager.diagnosis.rule import Clues, rule


def _tool_parser(clues: Clues) -> list[Fix]:
    """The nearest name, and doing without tools: the parser alone cannot be left out."""
    close = [fix for fix in nearest_choice("tool-call-parser")(clues) if fix.options["tool-call-parser"]]
    shown = "--tool-call-parser --enable-auto-tool-choice"
    none = {"tool-call-parser": None, "enable-auto-tool-choice": None}
    return [*close, Fix("no tools", f"Start without {shown}", none, words="without", facts={"change": shown})]


RULES = (
    rule(
        "unknown_flag",
        r"error: unrecognized arguments: (?P<arguments>.+)",
        "This vLLM has no such flag: {arguments}",
        "Correct it or leave it out; flags differ from one version of vLLM to the next.",
        unknown_flags,
    ),
    rule(
        "ambiguous_flag",
        r"error: ambiguous option: (?P<flag>\S+) could match (?P<choices>.+)",
        "{flag} may mean several flags: {choices}",
        "Write the one that is meant in full.",
    ),
    rule(
        "bad_choice",
        r"error: argument (?P<flag>[^:]+): invalid choice: '?(?P<value>[^' ]+)'? \((?:maybe you meant|choose from) "
        r"(?P<choices>.+)\)",
        "{value} is not a value of {flag}.",
        "It takes one of: {choices}.",
        argument_choice,
    ),
    rule(
        "bad_value",
        r"error: argument (?P<flag>[^:]+): \d+ validation errors? for \w+\n(?P<problem>[\w.]+\n\s*[^\[\n]+)",
        "The value of {flag} is wrong: {problem}",
        "Correct the value, or leave the flag out.",
        argument_removed,
        more=lambda clues: {"problem": ": ".join(str(clues.facts["problem"]).split("\n  ")).strip()},
    ),
    rule(
        "bad_value",
        r"error: argument (?P<flag>[^:]+): (?P<problem>(?:invalid|Invalid) [^\n]*|"
        r"Value [^\n]* cannot be converted[^\n]*|"
        r"Port must be[^\n]*|[^\n]*Decimals are not allowed[^\n]*|expected [^\n]*|ValueError[^\n]*|[^\n]*JSON[^\n]*)",
        "The value of {flag} is wrong: {problem}",
        "Correct the value, or leave the flag out.",
        argument_removed,
    ),
    rule(
        "bad_value",
        r"error: argument (?P<flag>[^:]+): (?P<problem>[^\n]+)",
        "The value of {flag} is wrong: {problem}",
        "Correct the value, or leave the flag out.",
        argument_removed,
    ),
    rule(
        "missing_argument",
        r"error: the following arguments are required: (?P<arguments>.+)",
        "A part of the command is missing: {arguments}",
        "Add it.",
    ),
    rule(
        "flags_exclude",
        r"error: [^\n]*not allowed with[^\n]*|are mutually exclusive|cannot be (?:used|combined|"
        r"enabled) (?:together|with)|"
        r"requires --[\w-]+|Use one or the other",
        "Two flags do not go together, or one needs another.",
        "The line above names them: remove one, or add the one that is missing.",
        when=lambda clues: ("--" in clues.text or "mutually" in clues.text) and "tool-call-parser" not in clues.text,
    ),
    rule(
        "complaint",
        r"^(?:vllm|\S+\.py)(?: [\w-]+)*: error: (?P<problem>.+)$",
        "vLLM does not accept the command: {problem}",
        "Correct the flags of the model.",
    ),
    rule(
        "reasoning_parser",
        r"Reasoning parser '(?P<value>[^']+)' not found\. Available parsers: (?P<choices>[^\"\n]+)|"
        r"invalid reasoning parser: (?P<named>\S+) \(chose from \{ ?(?P<names>[^}]+)",
        "There is no reasoning parser of that name.",
        "Correct --reasoning-parser, or leave it out.",
        lambda clues: nearest_choice("reasoning-parser")(clues),
        more=lambda clues: {
            "value": clues.facts.get("value") or clues.facts.get("named") or "",
            "choices": clues.facts.get("choices") or clues.facts.get("names") or "",
        },
    ),
    rule(
        "tool_parser",
        r"invalid tool call parser: (?P<value>\S+) \(chose from \{ ?(?P<choices>[^}]+)|"
        r"Tool parser '(?P<named>[^']+)' not found",
        "There is no tool parser of that name.",
        "Correct --tool-call-parser, or leave it and --enable-auto-tool-choice out.",
        _tool_parser,
    ),
    rule(
        "tool_parser_missing",
        r"--enable-auto-tool-choice requires --tool-call-parser",
        "Tools are switched on (--enable-auto-tool-choice), and the parser of the model's calls is missing.",
        "Name it with --tool-call-parser (hermes for Qwen), or leave --enable-auto-tool-choice out.",
        both(setting("tool-call-parser", "hermes"), removing("enable-auto-tool-choice")),
    ),
    rule(
        "config_file",
        r"No config file specified|Config file must be of a yaml/yml type|ConfigError|yaml\.(?:scanner|parser)\.\w+|"
        r"No model specified! Please specify model",
        "The configuration file cannot be read.",
        "Check the file of --config: YAML, with the flags' names as keys.",
    ),
    rule(
        "config_file",
        r"^(?:FileNotFoundError|IsADirectoryError|PermissionError)",
        "The configuration file cannot be read.",
        "Check the file of --config: YAML, with the flags' names as keys.",
        when=lambda clues: clues.passed_through("load_config_file"),
    ),
    rule(
        "model_not_first",
        r"`model` should be provided as the first positional argument",
        "The model is given with --model, where `vllm serve` wants it as the first word.",
        "Write `vllm serve MODEL …`.",
        lambda clues: [without_option("model")] if "model" in clues.options else [],
    ),
    rule(
        "unknown_variable",
        r"Unknown vLLM environment variable detected: (?P<name>\S+)",
        "This vLLM has no environment variable {name}.",
        "Remove it from the model's variables.",
    ),
    rule(
        "load_format",
        r"Load format `(?P<value>[^`]+)` is not supported|Unknown load_format: (?P<other>\S+)",
        "There is no such --load-format.",
        "Leave --load-format out.",
        removing("load-format"),
    ),
    rule(
        "executor_backend",
        r"Un(?:recognized|known) distributed executor backend",
        "There is no such --distributed-executor-backend.",
        "Leave the flag out.",
        removing("distributed-executor-backend"),
    ),
    rule(
        "invalid_setting",
        r"^\s*(?:(?P<field>[\w.]+): |[\w.]+\n\s+)?(?P<problem>Input should be [^\[\n]+|"
        r"Unexpected keyword argument[^\[\n]*|"
        r"Extra inputs are not permitted[^\[\n]*|Field required[^\[\n]*)",
        "A setting has a value that vLLM does not take: {problem}",
        "The line above names it; correct the flag, or leave it out.",
    ),
)
