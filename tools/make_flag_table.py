"""Makes ``server_manager/vllm_flags.json`` from the output of ``vllm serve --help=all``.

    vllm serve --help=all > help.txt
    python tools/make_flag_table.py help.txt 0.32.0

The help text is the source, and not vLLM's parser, so that the table can be made from a text that somebody sends, for
a version that is not installed here. ``test_flags.py`` compares the table with the parser of an installed vLLM.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

TARGET = Path(__file__).parent.parent / "server_manager" / "vllm_flags.json"

_FLAG_LINE = re.compile(r"^  (-\S.*)$")
_GROUP_LINE = re.compile(r"^(\w[\w ]*):$")
_FORMS = re.compile(r", (?=-)")
_COLUMNS = re.compile(r"\s{2,}")
_CHOICES = re.compile(r"^\{([^{}]*)\}")
_MANY_COPIES = re.compile(r"accept multiple --")


def _sentence(help_text: str) -> str:
    """The first sentence, without what argparse adds about the default."""
    text = re.sub(r"\s*\(default: .*$", "", help_text)
    text = re.split(r":? - ", text, maxsplit=1)[0]  # a list of the values follows
    match = re.match(r"(.+?(?<!e\.g)(?<!i\.e)[.!?])(?:\s+[A-Z*`\"(]|$)", text)
    return (match[1] if match else text).strip()


def _flag(header: str, help_text: str, group: str) -> dict[str, object]:
    forms = [form.split(" ", 1) for form in _FORMS.split(header)]
    names = [form[0] for form in forms]
    metavar = next((form[1] for form in forms if len(form) == 2), "")
    name = names[0].removeprefix("--")
    choices = _CHOICES.match(metavar)
    takes = "one"
    if not metavar:
        takes = "none"
    elif metavar.startswith("[") and not metavar.startswith("['"):
        takes = "optional"
    elif metavar.endswith("...]"):
        takes = "many"
    flag: dict[str, object] = {"name": name, "takes": takes, "group": group, "help": _sentence(help_text)}
    if aliases := [form for form in names[1:] if not form.startswith("--no-")]:
        flag["aliases"] = aliases
    if f"--no-{name}" in names:
        flag["negatable"] = True
    if choices and " or name " not in metavar:
        flag["choices"] = choices[1].split(",")
    if "valid JSON string" in help_text or help_text.endswith("(default: {})"):
        flag["json"] = True
    if _MANY_COPIES.search(help_text):
        flag["repeatable"] = True
    return flag


def parse_help(text: str) -> list[dict[str, object]]:
    """One entry per flag, in the order of the help text."""
    flags: list[dict[str, object]] = []
    group, header, lines = "", "", list[str]()

    def close() -> None:
        if header and not header.startswith("-h,"):
            whole_words = re.sub(r"(?<=\w-)\n(?=\w)", "", "\n".join(lines))  # argparse breaks lines at hyphens
            flags.append(_flag(header, whole_words.replace("\n", " "), group))

    for line in text.splitlines():
        if match := _FLAG_LINE.match(line):
            close()
            header, *rest = _COLUMNS.split(match[1], maxsplit=1)
            lines = rest
        elif match := _GROUP_LINE.match(line):
            close()
            group, header = match[1], ""
        elif header and line.strip():
            lines.append(line.strip())
    close()
    return flags


def main() -> None:
    source, version = sys.argv[1:]
    flags = parse_help(Path(source).read_text(encoding="utf-8"))
    rows = ",\n".join("  " + json.dumps(flag, ensure_ascii=False) for flag in flags)
    TARGET.write_text(f'{{"vllm": {json.dumps(version)}, "flags": [\n{rows}\n]}}\n', encoding="utf-8")
    print(f"{len(flags)} flags of vLLM {version} in {TARGET}")


if __name__ == "__main__":
    main()
