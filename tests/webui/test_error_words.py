"""The chat's errors in Chinese: each sentence that a person can meet there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

import server_manager
from server_manager.chat_refusals import _RULES, refusal
from server_manager.conversations.turn import INTERRUPTED
from webui.error_words import error_in_words, note_in_words
from webui.locales import error_words

HOME = Path(server_manager.__file__).parent
CHAT = ("chat.py", "chat_body.py", "answer_reader.py", "user_limit.py")
ERRORS = {"NotAllowed", "ContextExceeded", "ServerUnreachable", "TooManyAnswers", "NotKept", "RequestRejected"}


def template(node: ast.expr) -> str | None:
    """A sentence with ``{}`` for each fact in it; ``None`` for what is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def sentences() -> set[str]:
    """Those with which the chat's modules raise, and of the table of refusals."""
    found = {text for rule in _RULES for text in (rule.message, rule.next_step) if not text.startswith("{what}")}
    for name in CHAT:
        for node in ast.walk(ast.parse((HOME / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                found |= {text for argument in node.args if (text := template(argument))}
    return {re.sub(r"\{\w*\}", "{}", text) for text in found | {INTERRUPTED}}


def test_every_sentence_of_the_chat_has_its_chinese_with_the_same_facts() -> None:
    path = Path(__file__).parents[2] / "webui" / "locales" / "errors.zh-CN.yaml"
    rows: dict[str, str] = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {re.sub(r"\{\w*\}", "{}", english) for english in rows}
    assert sentences() - known == set()
    for english, chinese in rows.items():
        assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", chinese)), english
    assert len(error_words()["zh-CN"]) == len(rows)


@pytest.mark.parametrize(
    ("status", "message", "chinese"),
    [
        (
            404,
            "The model `a` does not exist.",
            "服务中没有该名称的模型：The model `a` does not exist. 请查看其 served-model-name。",
        ),
        (400, "As of transformers v4.44, you must provide a chat template", "此模型没有聊天模板"),
        (
            400,
            "This model's maximum context length is 600 tokens, not 700.",
            "此对话超出了模型的上下文长度。请清空对话",
        ),
        (400, "who knows?\nnobody", "服务拒绝了请求：who knows?\nnobody"),
    ],
)
def test_refusals_are_told_in_chinese(status: int, message: str, chinese: str) -> None:
    error = refusal(status, message)
    assert error_in_words(error.message, error.next_step)["zh-CN"].startswith(chinese)
    assert note_in_words(str(error)) == error_in_words(error.message, error.next_step)


def test_what_is_not_known_stays_english() -> None:
    assert error_in_words("Something else happened.", "Do that.") == {}
    assert note_in_words("") == {}
    assert note_in_words("m was stopped in the middle of the answer. Send again to start it.") == {
        "zh-CN": "m 在回答途中被停止。重新发送即可启动它。"
    }
