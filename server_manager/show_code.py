"""A chat as code: what the page would send, for a shell and in Python; and the command of its model.

The first two go through the gateway (``/v1`` of this app), so they work from wherever the page does. The request's body
stands in a here-document, which takes any text as it is: a shell's word could hold 128 KiB at most, and would need
every apostrophe of it quoted.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server_manager.model_spec import ModelSpec
from server_manager.sampling import SAMPLING_PARAMS
from server_manager.shell_line import shell_line

KEY_VARIABLE = "DECK_API_KEY"
"""Where the code reads its API key from."""
_JSON_WORDS = {True: "true", False: "false", None: "null"}
_PYTHON_WORDS = {True: "True", False: "False", None: "None"}
_OPENAI_FIELDS = frozenset(row.name for row in SAMPLING_PARAMS if row.channel == "openai") | {"model", "messages"}
"""What the ``openai`` client takes as it is; whatever else vLLM knows goes into ``extra_body``."""
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_VLLM_PORT = 8000
_JOINERS = "\u200c\u200d"
"""Part of what people write (emoji, Persian), unlike other invisible characters."""


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where this app hands an image out; in a body it stands in the place of the ``data:`` URL."""

    media_type: str
    url: str


@dataclass(frozen=True, slots=True)
class ChatCode:
    """One request of a chat as code."""

    curl: str
    python: str


def chat_code(
    body: Mapping[str, object], origin: str, *, with_key: bool, places: Mapping[str, ImagePlace] | None = None
) -> ChatCode:
    """The code that sends ``body`` (of ``/v1/chat/completions``, without the streaming fields).

    ``origin`` is this app's, such as ``http://127.0.0.1:7860``. ``with_key``: it wants an API key. Images whose data
    URL is in ``places`` are fetched from the app, so that nobody has to copy megabytes.
    """
    base_url = f"{origin.rstrip('/')}/v1"
    if places:
        body = {key: _placed(value, places) for key, value in body.items()}
    return ChatCode(_curl(body, base_url, with_key), _python(body, base_url, with_key))


@dataclass(frozen=True, slots=True)
class ServeCode:
    """A model's own command, to run where there is no vLLM Deck."""

    line: str
    url: str
    """Where its server answers then."""
    model: str
    """What it calls its model there."""


def serve_code(spec: ModelSpec) -> ServeCode:
    """The ``vllm serve`` line of a model: what its file says, without what a start from here adds."""
    line = shell_line(("vllm", "serve", *spec.serve_args()), spec.vllm_env, multiline=True)
    port = spec.options.get("port", _VLLM_PORT)
    return ServeCode(f"{line}\n", f"http://localhost:{port}/v1", spec.served_model_name)


def _curl(body: Mapping[str, object], base_url: str, with_key: bool) -> str:
    expands = _has_images(body)
    writer = _Writer(_JSON_WORDS, step="  ", for_shell=expands)
    fields = [f'  "{key}": {writer.field(value, "  ")}' for key, value in {**body, "stream": True}.items()]
    authorization = f'-H "Authorization: Bearer ${KEY_VARIABLE}"'
    lines = [
        f"curl -N {shlex.quote(base_url + '/chat/completions')}",
        *([authorization] if with_key else []),
        "-H 'Content-Type: application/json'",
        "-d @- <<END" if expands else "-d @- <<'END'",
    ]
    command = " \\\n    ".join(lines) + "\n{\n" + ",\n".join(fields) + "\n}\nEND\n"
    if not expands:
        return command
    fetch = f"curl -sS {authorization}" if with_key else "curl -sS"
    return f"image() {{ printf 'data:%s;base64,' \"$1\"; {fetch} \"$2\" | base64 | tr -d '\\n'; }}\n\n{command}"


def _python(body: Mapping[str, object], base_url: str, with_key: bool) -> str:
    writer = _Writer(_PYTHON_WORDS, step="    ")
    key = f'os.environ["{KEY_VARIABLE}"]' if with_key else '"none"'
    plain = {name: value for name, value in body.items() if name in _OPENAI_FIELDS}
    extra = {name: value for name, value in body.items() if name not in _OPENAI_FIELDS}
    arguments = [f"    {name}={writer.field(value, '    ')},\n" for name, value in plain.items()]
    if extra:
        inside = "".join(f'        "{name}": {writer.field(value, "        ")},\n' for name, value in extra.items())
        arguments.append(f"    extra_body={{\n{inside}    }},\n")
    imports = [name for name, used in (("base64", _has_images(body)), ("os", with_key)) if used]
    if _has_images(body):
        imports.append("urllib.request")
    return (
        "".join(f"import {name}\n" for name in imports)
        + ("\n" if imports else "")
        + "from openai import OpenAI\n\n"
        + f"client = OpenAI(base_url={writer.text(base_url)}, api_key={key})\n"
        + (_python_images() if _has_images(body) else "\n")
        + "stream = client.chat.completions.create(\n"
        + "".join(arguments)
        + "    stream=True,\n)\n"
        + "for chunk in stream:\n"
        + "    if chunk.choices:\n"
        + '        print(chunk.choices[0].delta.content or "", end="", flush=True)\n'
        + "print()\n"
    )


def _python_images() -> str:
    return """

def image(media_type, url):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {client.api_key}"})
    with urllib.request.urlopen(request) as answer:
        return f"data:{media_type};base64,{base64.b64encode(answer.read()).decode()}"


"""


class _Writer:
    """Writes values as JSON, or as Python: their strings and brackets are alike."""

    def __init__(self, words: Mapping[bool | None, str], *, step: str, for_shell: bool = False) -> None:
        """``step`` is how far each level stands in. ``for_shell``: inside a here-document in which the shell replaces
        variables and commands."""
        self._words = words
        self._step = step
        self._for_shell = for_shell

    def field(self, value: object, indent: str) -> str:
        """A value of the body: a list of messages with each on a line of its own, anything else on one."""
        if isinstance(value, Sequence) and not isinstance(value, str) and value:
            lines = ",\n".join(f"{indent}{self._step}{self._value(item)}" for item in value)
            return f"[\n{lines}\n{indent}]"
        return self._value(value)

    def _value(self, value: object) -> str:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bool) or value is None:
            return self._words[value]
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{self.text(str(key))}: {self._value(item)}" for key, item in value.items()) + "}"
        if isinstance(value, Sequence):
            return "[" + ", ".join(map(self._value, value)) + "]"
        if isinstance(value, ImagePlace):
            if self._for_shell:
                return f'"$(image {shlex.quote(value.media_type)} {shlex.quote(value.url)})"'
            return f"image({self.text(value.media_type)}, {self.text(value.url)})"
        return repr(value)  # a number

    def text(self, value: str) -> str:
        """A string. What cannot be seen is escaped: a terminal would act on it when it is pasted."""
        if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
            written = value  # an image: millions of characters, in which nobody else would get any
        else:
            written = "".join(_ESCAPES.get(char) or (_escaped(char) if _is_hidden(char) else char) for char in value)
        if self._for_shell:
            written = written.replace("\\", "\\\\").replace("$", "\\$").replace("`", "\\`")
        return f'"{written}"'


def _is_hidden(char: str) -> bool:
    if char.isascii():
        return not char.isprintable()
    return char <= "\uffff" and unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and char not in _JOINERS


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}"


def _placed(value: object, places: Mapping[str, ImagePlace]) -> object:
    if isinstance(value, str):
        return places.get(value, value)
    if isinstance(value, Mapping):
        return {key: _placed(item, places) for key, item in value.items()}
    return [_placed(item, places) for item in value] if isinstance(value, list) else value


def _has_images(value: object) -> bool:
    """Whether an ``ImagePlace`` is somewhere in it."""
    if isinstance(value, Mapping):
        return any(map(_has_images, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(map(_has_images, value))
    return isinstance(value, ImagePlace)
