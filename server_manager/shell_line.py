"""A model as a line for the shell, and any pasted ``vllm serve …`` line as a model.

Nothing here runs a shell. What is read is what POSIX quoting says (``shlex``); what only a shell could do (pipes,
variables, a second command) is refused or reported.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from server_manager import flags
from server_manager.errors import SpecError
from server_manager.flags import Flag
from server_manager.model_spec import ModelSpec, name_for, option_error, option_warnings
from server_manager.secret_mask import is_secret, without_passwords

SECRET_FLAGS: Mapping[str, str] = {"api-key": "VLLM_API_KEY", "hf-token": "HF_TOKEN"}
"""Flags whose value is a secret, and the variable that vLLM reads instead of each."""

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_PROMPT = re.compile(
    r"(?:\([\w.-]+\)\s*)?(?:\[?[\w.-]+@[^\s$#%]+[^\n$#%]*)?[$%]\s+|#\s+(?=(?:\w+=\S+\s+)*\S*vllm serve\b)"
)
_CONTAINER = re.compile(r"(?:sudo\s+)?(?:docker|podman|nerdctl|singularity|apptainer|kubectl)\b")
_CONTINUATION = re.compile(r"\\[ \t]*\r?\n")
_REDIRECT = re.compile(r"(?<!\S)(?:\d?>>?\s*&\d|&>>?\s*[^\s;&|]+|\d?>>?\s*[^\s;&|]+|<\s*[^\s;&|]+)")
_EXPANSION = re.compile(r"\$(?:\w+|\{[^}]*\}|\(|')|`")
_NUMBER = re.compile(r"-?\d+|-?\d*\.\d+")
_WRAPPERS = frozenset({"nohup", "exec", "time", "env", "export", "uv", "uvx", "run", "sudo"})
_MODULES = frozenset({"vllm.entrypoints.openai.api_server", "vllm.entrypoints.launchers.api_server.entry"})
_CLI_MODULES = frozenset({"vllm", "vllm.entrypoints.cli.main"})
_PASTE = "Paste one line that begins with 'vllm serve MODEL'."


def shell_line(argv: Sequence[str], env: Mapping[str, str], *, multiline: bool = False) -> str:
    """The command as a person would type it: assignments first, POSIX quoting.

    Secrets are never in it: in their place stands the variable of the reader's own shell (``HF_TOKEN="$HF_TOKEN"``),
    and dots for a password in the URL of a flag.
    ``multiline`` puts each flag on a line of its own, with a backslash at each end.
    """
    parts = [
        f'{key}="${key}"' if is_secret(key, value) else f"{key}={shlex.quote(value)}" for key, value in env.items()
    ]
    lines = [" ".join([*parts, ""]) if parts else ""]
    secret: str | None = None
    for word in map(without_passwords, argv):
        is_flag = word.startswith("--") or (word.startswith("-") and flags.find_form(word.split("=", 1)[0]) is not None)
        if is_flag:
            form, _, value = word.partition("=")
            flag = flags.find_form(form)
            secret = SECRET_FLAGS.get(flag.name) if flag else None
            shown = f'{form}="${secret}"' if secret and value else shlex.quote(word)
            lines.append(shown)
        else:
            lines[-1] += (" " if lines[-1] and not lines[-1].endswith(" ") else "") + (
                f'"${secret}"' if secret else shlex.quote(word)
            )
    return (" \\\n    " if multiline else " ").join(lines)


def parse_shell_line(text: str, *, name: str | None = None) -> ModelSpec:
    """The model that a pasted line serves. ``name`` is by default made from the served name or the model.

    Understands environment assignments, line continuations, prompts, ``--flag=value``, short flags, ``--no-flag``,
    flags that are not in our table, and the form ``python -m vllm.entrypoints.openai.api_server --model X``. What it
    left out or could not carry over stands in ``warnings``. Raises ``SpecError`` for anything but one vLLM command.
    """
    words, env, warnings = _command(text)
    reader = _Reader(words, warnings=warnings)
    reader.read()
    if reader.model is None:
        raise SpecError("The line names no model.", _PASTE, key="model")
    for key, value in reader.options.items():
        if problem := option_error(key, value):
            raise SpecError(problem, key=key)
        warnings += option_warnings(key, value)
    spec = ModelSpec(name or "model", reader.model, reader.options, env, warnings=tuple(warnings))
    if name is None:
        spec = ModelSpec(name_for(spec.served_model_name), spec.model, spec.options, env, warnings=spec.warnings)
    return spec


def _command(text: str) -> tuple[list[str], dict[str, str], list[str]]:
    """The words after ``serve`` (or after the module), the environment, and warnings."""
    warnings: list[str] = []
    env: dict[str, str] = {}
    found: list[str] | None = None
    for line, mask in _logical_lines(text):
        if found is not None and mask.lstrip().startswith("-"):  # copied without its backslash
            found += _words(line)
            _warn_expansions(mask, warnings)
            continue
        words, _ = _assignments(_words(line), env)
        if not words:
            continue
        if found is not None:
            raise SpecError(f"There is a second command after the first: {line.strip()[:80]!r}.", _PASTE)
        found = _after_serve(words)
        _warn_expansions(mask, warnings)
    if found is None:
        raise SpecError("There is no command in this text.", _PASTE)
    return found, env, warnings


def _warn_expansions(mask: str, warnings: list[str]) -> None:
    own = {f"${variable}" for variable in SECRET_FLAGS.values()}
    warnings += [
        f"{match[0]} is for a shell to replace; here it stands for itself. Write its value instead."
        for match in _EXPANSION.finditer(re.sub(r"(\w+)=(['\"\x01]?)\$\1\b", "", mask))
        if match[0] not in own
    ]


def _logical_lines(text: str) -> Iterable[tuple[str, str]]:
    """Each command's text, and its mask (see ``_mask``); comments, prompts, redirections and ``&`` removed."""
    text = _CONTINUATION.sub(" ", text.strip().strip("`").removeprefix("bash\n").removeprefix("shell\n"))
    text = "\n".join(_PROMPT.sub("", line, count=1) if _PROMPT.match(line) else line for line in text.split("\n"))
    if _CONTAINER.match(text.lstrip()):
        raise SpecError(
            "That is a container's command line.",
            "Paste what vLLM gets: 'vllm serve MODEL' and the flags that follow the name of the image.",
        )
    mask = _mask(text)
    start = 0
    for end in [match.start() for match in re.finditer(r"\n|$(?!\n)", mask)]:
        line, line_mask = text[start:end], mask[start:end]
        start = end + 1
        if comment := re.search(r"(?<!\S)#", line_mask):
            line, line_mask = line[: comment.start()], line_mask[: comment.start()]
        for match in reversed(list(_REDIRECT.finditer(line_mask))):
            line = line[: match.start()] + line[match.end() :]
            line_mask = line_mask[: match.start()] + line_mask[match.end() :]
        cut = len(re.sub(r"[\s;&]+$", "", line_mask)) if not line_mask.rstrip().endswith("&&") else len(line_mask)
        line, line_mask = line[:cut], line_mask[:cut]
        if operator := re.search(r"&&|\|\|?|;|&|<|>", line_mask):
            raise SpecError(f"'{operator[0]}' joins this command with something else.", _PASTE)
        if line.strip():
            yield line, line_mask


def _mask(text: str) -> str:
    """``text`` with all that is quoted replaced, so that positions stay and operators can be searched for.

    In double quotes what may be a variable stays, as it does to a shell. A comment is masked by itself, because an
    apostrophe in it opens nothing.
    """
    out: list[str] = []
    quote, index = "", 0
    while index < len(text):
        char = text[index]
        if char == "\\" and quote != "'" and index + 1 < len(text):
            out.append("\x01\x01")
            index += 2
            continue
        if not quote and char == "#" and (index == 0 or text[index - 1].isspace()):
            end = text.find("\n", index)
            end = len(text) if end < 0 else end
            out.append("#" + "\x01" * (end - index - 1))
            index = end
            continue
        if quote:
            out.append(char if quote == '"' and (char.isalnum() or char in "$`_{}(") else "\x01")
            quote = "" if char == quote else quote
        else:
            out.append("\x01" if char in "'\"" else char)
            quote = char if char in "'\"" else ""
        index += 1
    if quote:
        raise SpecError(f"A quotation mark ({quote}) is opened and never closed.", _PASTE)
    return "".join(out)


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise SpecError(f"The line cannot be read: {error}.", _PASTE) from error


def _assignments(words: list[str], env: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Moves leading ``NAME=value`` and harmless words in front of them into ``env``; ``NAME="$NAME"`` says nothing."""
    index = 0
    while index < len(words):
        if match := _ASSIGNMENT.fullmatch(words[index]):
            if match[2] not in {f"${match[1]}", f"${{{match[1]}}}"}:
                env[match[1]] = match[2]
        elif words[index] not in _WRAPPERS:
            break
        index += 1
    return words[index:], env


def _after_serve(words: list[str]) -> list[str]:
    """The words that vLLM's parser would get."""
    program = words[0].rsplit("/", 1)[-1]
    if program == "vllm" and words[1:2] == ["serve"]:
        return words[2:]
    if re.fullmatch(r"python[\d.]*", program):
        arguments = [word for word in words[1:] if word not in {"-u", "-O", "-I"}]
        if arguments[:1] == ["-m"] and len(arguments) > 1:
            if arguments[1] in _MODULES:
                return arguments[2:]
            if arguments[1] in _CLI_MODULES and arguments[2:3] == ["serve"]:
                return arguments[3:]
    raise SpecError(f"{' '.join(words[:3])[:80]!r} is not a command that serves a model with vLLM.", _PASTE)


@dataclass(slots=True)
class _Reader:
    """Reads the words as argparse would with vLLM's flags."""

    words: list[str]
    warnings: list[str]
    model: str | None = None
    options: dict[str, object] = field(default_factory=dict)
    index: int = 0
    given: set[str] = field(default_factory=set)

    def read(self) -> None:
        while self.index < len(self.words):
            word = self.words[self.index]
            self.index += 1
            if word == "--":
                continue
            if self._is_flag(word):
                self._flag(word)
            else:
                self._positional(word)

    def _positional(self, word: str) -> None:
        if self.model not in {None, word}:
            raise SpecError(f"{word!r} is left over: the model is {self.model!r} already.", _PASTE)
        self.model = word

    def _flag(self, word: str) -> None:
        form, joined, value = word.partition("=")
        if re.match(r"-O(?!$)", form):  # -O3, -O=3 and -Odecode, as FlexibleArgumentParser takes them
            form, joined, value = "--optimization-level", "=", (word[3:] if word[2] == "=" else word[2:])
        elif form == "-O":
            form = "--optimization-level"
        key, flag = self._key(form)
        if key == "config":
            raise SpecError(
                "The line takes its flags from a file (--config).", "Copy that file into the models folder."
            )
        negated = flags.find_negated(key)
        if negated and not joined:
            return self._set(negated.name, False)
        dotted = "." in key
        if joined:
            return self._set(key, _typed(value, flag, dotted))
        if flag and flag.boolean and not dotted:
            return self._set(key, True)
        values = self._values(flag, dotted)
        if not values:
            if flag and flag.takes in {"one", "many"}:
                raise SpecError(f"{form} needs a value.", key=key)
            return self._set(key, True)
        typed = [_typed(value, flag, dotted) for value in values]
        return self._set(key, typed[0] if len(typed) == 1 else typed)

    def _key(self, form: str) -> tuple[str, Flag | None]:
        """The option's key, and the flag if the table has it; a short form becomes the long one."""
        flag = flags.find_form(form)
        if form.startswith("--"):
            return flags.normalise(form[2:]), flag
        if flag is None:
            raise SpecError(f"{form} is not a short form that vLLM has.", "Write the long form.", key=form)
        _, dot, rest = form.partition(".")
        return f"{flag.name}{dot}{rest}", flag

    def _values(self, flag: Flag | None, dotted: bool) -> list[str]:
        """The words that belong to a flag. For a flag that we do not know: all up to the next flag."""
        end = self.index
        limit = 1 if dotted or (flag and flag.takes in {"one", "optional"}) else len(self.words)
        while end < len(self.words) and end - self.index < limit and not self._is_flag(self.words[end]):
            end += 1
        values = self.words[self.index : end]
        if flag is None and not dotted and self.model is None and len(values) > 1 and not self._model_follows(end):
            values.pop()  # the model at the end of the line
        self.index += len(values)
        return values

    def _model_follows(self, start: int) -> bool:
        return any(re.match(r"--model(=|$)", word) for word in self.words[start:])

    def _is_flag(self, word: str) -> bool:
        return word.startswith("-") and len(word) > 1 and not _NUMBER.fullmatch(word) and " " not in word.split("=")[0]

    def _set(self, key: str, value: object) -> None:
        flag = flags.find(key)
        if key == "model":
            return self._positional(str(value))
        if flag and flag.name in SECRET_FLAGS:
            own = f"${SECRET_FLAGS[flag.name]}"  # what shell_line shows in the secret's place
            values = [item for item in (value if isinstance(value, list) else [value]) if item != own]
            if not values:
                return None
            value = values if len(values) > 1 else values[0]
        if key in self.given and flag and flag.repeatable:
            before = self.options[key]
            value = [*(before if isinstance(before, list) else [before]), value]
        elif key in self.given and key.endswith("+"):  # vLLM adds to the list
            value = f"{self.options[key]},{value}"
        elif key in self.given:
            self.warnings.append(f"--{key} is given twice; the last one counts, as in vLLM.")
        self.given.add(key)
        self.options[key] = value
        return None


def _typed(text: str, flag: Flag | None, dotted: bool) -> object:
    """A word as the YAML value from which exactly this word is made again."""
    if flag and flag.json and not dotted and text.startswith("{"):
        try:
            value = json.loads(text, object_pairs_hook=_without_duplicates)
        except ValueError:
            return text
        return value
    if _NUMBER.fullmatch(text) and len(text) < 16:
        number = float(text) if "." in text else int(text)
        return number if str(number) == text else text
    return text


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("duplicate key")
    return value
