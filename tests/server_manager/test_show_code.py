"""A chat as code: the code is run, and what it would send must be what it was made from."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from server_manager.model_spec import ModelSpec
from server_manager.shell_line import parse_shell_line
from server_manager.show_code import ChatCode, ImagePlace, chat_code, serve_code

NASTY = [
    'it\'s "quoted" and \\ back\\nslashed',
    "$HOME ${HOME} $(touch pwned) `touch pwned` !! !-1 %s %n",
    "END\nEND\n\nEOF\n",
    "你好，世界　“引号”\n第二行",
    "tab\there, return\r, bell\a, escape \x1b[2J, delete \x7f, zero \0, line\u2028separator, \u202eright to left",
    "👩‍💻 emoji, ﻿byte order mark, {not: json}, <script>alert(1)</script>",
    "",
    "~ * ? [a-z] # ; && | > /dev/null",
]


def body_with(*texts: str, **fields: object) -> dict[str, object]:
    return {"model": "some model", "messages": [{"role": "user", "content": text} for text in texts], **fields}


def sent_by_curl(code: ChatCode, folder: Path, shell: str = "bash", **env: str) -> dict[str, Any]:
    """What curl would be told to send: here it is a script that keeps its standard input and its words."""
    (folder / "curl").write_text(
        '#!/bin/sh\ncase "$1" in -sS) for w; do :; done; printf "%s" "the image at $w";; *)'
        ' printf "%s\\n" "$@" > words; cat > body;; esac\n'
    )
    (folder / "curl").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run([shell], input=code.curl.encode(), cwd=folder, env={"PATH": path, **env}, check=True, timeout=30)
    assert {entry.name for entry in folder.iterdir()} == {"curl", "words", "body"}, "nothing of the text was run"
    found: dict[str, Any] = json.loads((folder / "body").read_bytes())
    return found


def sent_by_python(code: ChatCode) -> dict[str, Any]:
    """The arguments of the call, with those for vLLM alone put where the client puts them."""
    call = next(
        node
        for node in ast.walk(ast.parse(code.python))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "client.chat.completions.create"
    )
    found = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    extra = found.pop("extra_body", {})
    return {**found, **extra}


@pytest.mark.parametrize("text", NASTY)
def test_python_says_any_text_as_it_is(text: str) -> None:
    body = body_with(text, temperature=0.7)
    code = chat_code(body, "http://127.0.0.1:7860", with_key=False)
    assert sent_by_python(code) == {**body, "stream": True}
    assert all(char.isprintable() or char in "\n\u3000\u200d" for char in code.python), "a terminal would act on it"


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_shell_sends_any_text_as_it_is(shell: str, tmp_path: Path) -> None:
    body = body_with(*NASTY, temperature=0.7, repetition_penalty=1.05, seed=5)
    code = chat_code(body, "https://deck.example:8443/", with_key=False)
    assert sent_by_curl(code, tmp_path, shell) == {**body, "stream": True}
    words = (tmp_path / "words").read_text().splitlines()
    assert "https://deck.example:8443/v1/chat/completions" in words
    assert not any("Authorization" in word for word in words)


@pytest.mark.slow
def test_shell_sends_more_than_a_word_can_hold(tmp_path: Path) -> None:
    body = body_with("ab'c " * 200_000)
    assert sent_by_curl(chat_code(body, "http://[::1]:1", with_key=False), tmp_path) == {**body, "stream": True}


@pytest.mark.slow
def test_key_comes_from_the_environment(tmp_path: Path) -> None:
    code = chat_code(body_with("Hello"), "https://deck.example", with_key=True)
    sent_by_curl(code, tmp_path, DECK_API_KEY="sk-deck-1")
    assert "Authorization: Bearer sk-deck-1" in (tmp_path / "words").read_text().splitlines()
    assert 'api_key=os.environ["DECK_API_KEY"]' in code.python
    assert code.python.startswith("import os\n")


def test_what_only_vllm_knows_is_extra_for_the_client() -> None:
    body = body_with("Hi", max_tokens=5, top_k=3, min_p=0.1, chat_template_kwargs={"enable_thinking": False})
    code = chat_code(body, "http://127.0.0.1:1", with_key=False)
    tree = ast.parse(code.python)
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and "create" in ast.unparse(node.func))
    assert {word.arg for word in call.keywords} == {"model", "messages", "max_tokens", "extra_body", "stream"}
    assert sent_by_python(code) == {**body, "stream": True}


def with_image(url: str) -> dict[str, object]:
    parts = [{"type": "text", "text": NASTY[1]}, {"type": "image_url", "image_url": {"url": url}}]
    return {"model": "m", "messages": [{"role": "user", "content": parts}], "temperature": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_kept_images_are_fetched(shell: str, tmp_path: Path) -> None:
    place = ImagePlace("image/png", "http://127.0.0.1:7860/api/conversations/abc/images/1")
    body = with_image("data:image/png;base64,AAAA")
    places = {"data:image/png;base64,AAAA": place}
    code = chat_code(body, "http://127.0.0.1:7860", with_key=True, places=places)
    fetched = "dGhlIGltYWdlIGF0IGh0dHA6Ly8xMjcuMC4wLjE6Nzg2MC9hcGkvY29udmVyc2F0aW9ucy9hYmMvaW1hZ2VzLzE="
    sent = sent_by_curl(code, tmp_path, shell)
    assert sent == {**with_image(f"data:image/png;base64,{fetched}"), "stream": True}
    assert 'image("image/png", "http://127.0.0.1:7860/api/conversations/abc/images/1")' in code.python
    ast.parse(code.python)


def test_other_images_are_in_the_code() -> None:
    body = with_image("data:image/png;base64,AAAA")
    assert sent_by_python(chat_code(body, "http://127.0.0.1:1", with_key=False)) == {**body, "stream": True}


def test_command_is_that_of_the_models_file() -> None:
    options = {"served-model-name": "it's mine", "max-model-len": 512, "port": 9000}
    spec = ModelSpec("mine", "org/model", options, {"HF_TOKEN": "hf_secret", "HF_ENDPOINT": "https://hf-mirror.com"})
    found = serve_code(spec)
    assert (found.url, found.model) == ("http://localhost:9000/v1", "it's mine")
    assert "hf_secret" not in found.line
    again = parse_shell_line(found.line, name="mine")
    assert (again.model, again.options) == (spec.model, spec.options)
    assert serve_code(ModelSpec("plain", "org/model", {}, {})).url == "http://localhost:8000/v1"
