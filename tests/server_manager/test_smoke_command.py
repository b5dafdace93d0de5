"""``app.py smoke NAME``: what is printed, and the exit code."""

from __future__ import annotations

from typing import Any

import pytest

from server_manager.completion import Completion
from server_manager.smoke.asking import PROMPTS, Answer
from server_manager.smoke.judge import judge
from server_manager.smoke_command import report_lines, run_smoke


def answer(prompt: str, text: str) -> Answer:
    tokens = tuple(text.split(" "))
    return Answer(prompt, Completion(text, len(tokens), tokens, (-1.0,) * len(tokens), (-3.0,) * 4))


def result(*texts: str) -> dict[str, Any]:
    return judge("m", [answer(prompt, text) for prompt, text in zip(PROMPTS, texts, strict=True)], 1.25).as_dict()


SOUND = result(" Ann and I am ten", " the head of state", " Paris.\nIt is large", " bright")
BROKEN = result("! ! ! ! ! !", "! ! ! ! ! !", "! ! ! ! ! !", "\x1b[31m")


class App:
    """The app that is running."""

    def __init__(self, result: dict[str, Any], *states: str, attached: bool = False) -> None:
        self.result, self.states, self.attached = result, list(states), attached
        self.asked: list[str] = []

    def ask(self, method: str, path: str, timeout: float = 0) -> Any:
        self.asked.append(f"{method} {path}")
        if path.endswith("/smoke"):
            assert timeout > 300, "it may have to wake first"
            return self.result
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        found = {"state": state, "attached": self.attached, "phase": None, "detail": "", "exit": None, "base_url": "u"}
        return found | {"ready_at": 2.0, "started_at": 1.0}


@pytest.mark.parametrize("state", ["ready", "asleep"])
def test_server_that_is_up_is_tested_at_once(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    app = App(SOUND, state)
    assert run_smoke(app.ask, "a b") == 0
    assert app.asked == ["GET /api/servers/a%20b", "POST /api/servers/a%20b/smoke"]
    assert capsys.readouterr().out.splitlines() == [
        "Hello, my name is …",
        "    Ann and I am ten",
        "    [6 tokens; perplexity of the prompt 20.1, of the answer 2.7]",
        "",
        "The president of the United States is …",
        "    the head of state",
        "    [5 tokens; perplexity of the prompt 20.1, of the answer 2.7]",
        "",
        "The capital of France is …",
        "    Paris.",
        "    It is large",
        "    [4 tokens; perplexity of the prompt 20.1, of the answer 2.7]",
        "",
        "The future of AI is …",
        "    bright",
        "    [2 tokens; perplexity of the prompt 20.1, of the answer 2.7]",
        "",
        "PASS: m, 1.2 s, perplexity of the prompt 20.1, of the answer 2.7",
    ]


def test_server_that_is_down_is_started_first(capsys: pytest.CaptureFixture[str]) -> None:
    app = App(SOUND, "stopped", "starting", "ready")
    assert run_smoke(app.ask, "m") == 0
    assert [asked.partition("/m")[2] for asked in app.asked] == ["", "/start", "", "/smoke"]
    told = capsys.readouterr()
    assert "ready after" in told.err
    assert "ready after" not in told.out


def test_attached_server_is_not_started() -> None:
    app = App(SOUND, "failed", attached=True)
    run_smoke(app.ask, "m")
    assert app.asked[1].endswith("/smoke")


def test_failure_is_told_and_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_smoke(App(BROKEN, "ready").ask, "m") == 1
    out = capsys.readouterr().out
    assert "FAIL: m" in out
    assert "\n- 3 of 4 answers are odd: repeating themselves.\n" in out
    assert "; It repeats itself]" in out
    assert "\x1b" not in out, "what a damaged model says must not reach the terminal as a command"


def test_what_could_not_be_judged_is_said() -> None:
    plain = [Answer(prompt, Completion(f" {prompt.lower()}")) for prompt in PROMPTS]
    lines = list(report_lines(judge("m", plain, 0.5).as_dict()))
    assert lines[-2:] == [
        "PASS: m, 0.5 s",
        "Note: The server tells no probabilities, so only the text was judged: nonsense that does not repeat itself "
        "goes unnoticed.",
    ]
