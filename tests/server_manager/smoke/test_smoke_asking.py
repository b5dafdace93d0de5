"""What a server is asked, and what becomes of servers that cannot tell all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fakes import StubServer

from server_manager.client import ServerClient
from server_manager.errors import ContextExceeded, NotAllowed, RequestRejected
from server_manager.smoke.asking import PROMPTS, ask_prompts
from server_manager.smoke.judge import judge
from server_manager.smoke.result import SmokeResult

ANSWER = {
    "text": " Paris, of course.",
    "logprobs": {"tokens": [" Paris", ",", " of course", "."], "token_logprobs": [-0.1, -0.2, -0.3, -0.4]},
    "prompt_logprobs": [None, {"7": {"logprob": -2.0, "rank": 3}}, {"8": {"logprob": -3.0}, "9": {"logprob": -0.1}}],
}
Request = Mapping[str, Any]


def answers(**choice: object) -> Callable[[Request], tuple[int, object]]:
    """Another text for each prompt, so that it is not "the same whatever it is given"."""
    return lambda request: (
        200,
        {"choices": [{**ANSWER, "text": f"{request['prompt']}, indeed", **choice}], "usage": {"completion_tokens": 4}},
    )


def refuses(status: int, *names: str, otherwise: Callable[[Request], tuple[int, object]] | None = None) -> Any:
    """Requests with one of these fields; without names every request."""

    def answer(request: Request) -> tuple[int, object]:
        if not names or any(name in request for name in names):
            return status, {"error": {"message": "I do not know that", "type": "BadRequestError"}}
        return (otherwise or answers())(request)

    return answer


async def tested(client: ServerClient) -> SmokeResult:
    return judge("stub", await ask_prompts(client, "stub"), 1.0)


async def test_vllm_is_asked_for_all_that_it_can_tell(client: ServerClient, stub: StubServer) -> None:
    stub.answer_completion = answers()
    found = await tested(client)
    assert {request["prompt"] for request in stub.requests} == set(PROMPTS)
    assert len(stub.requests) == 4
    wanted = {"temperature": 0, "max_tokens": 16, "logprobs": 1, "prompt_logprobs": 0, "model": "stub"}
    assert all(wanted.items() <= request.items() for request in stub.requests)
    assert found.passed
    assert not found.not_judged
    assert found.perplexity.answer == pytest.approx(2.718**0.25, rel=0.01)
    assert found.perplexity.prompt == pytest.approx(2.718**2.5, rel=0.01), "the prompt's own tokens, not others'"
    assert [prompt.tokens for prompt in found.prompts] == [4] * 4
    assert found.as_dict()["verdict"] == "pass"


async def test_server_that_refuses_vllms_own_field(client: ServerClient, stub: StubServer) -> None:
    stub.answer_completion = refuses(400, "prompt_logprobs", otherwise=answers(prompt_logprobs=None))
    found = await tested(client)
    assert found.passed
    assert found.perplexity.prompt is None
    assert found.perplexity.answer is not None
    assert "prompts" in found.not_judged[0]
    assert len(stub.requests) == 5, "it is asked once only for what it does not know"


async def test_server_that_ignores_what_it_does_not_know(client: ServerClient, stub: StubServer) -> None:
    stub.answer_completion = answers(logprobs=None, prompt_logprobs=None)
    found = await tested(client)
    assert found.passed
    assert found.perplexity.as_dict() is None
    assert "only the text was judged" in found.not_judged[0]
    assert len(stub.requests) == 4


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [{"token": " Paris", "logprob": -0.1}, {"token": ".", "logprob": -0.3}]},  # llama.cpp's
        {"tokens": ["Paris", "."], "token_logprobs": [-0.1, -0.3]},
    ],
)
async def test_logprobs_of_other_servers(client: ServerClient, stub: StubServer, logprobs: object) -> None:
    stub.answer_completion = answers(logprobs=logprobs, prompt_logprobs=None)
    found = await tested(client)
    assert found.perplexity.answer == pytest.approx(2.718**0.2, rel=0.01)


async def test_logprobs_of_an_unknown_form_are_none(client: ServerClient, stub: StubServer) -> None:
    stub.answer_completion = answers(logprobs=["?"], prompt_logprobs="?")
    found = await tested(client)
    assert found.prompts[2].text == "The capital of France is, indeed"
    assert "only the text was judged" in found.not_judged[0]


@pytest.mark.parametrize("status", [400, 404, 405, 501])
async def test_there_is_nothing_to_judge_without_text(client: ServerClient, stub: StubServer, status: int) -> None:
    """An embedding model is not broken."""
    stub.answer_completion = refuses(status)
    with pytest.raises(NotAllowed, match="completes no text"):
        await tested(client)


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_a_refusal_that_is_not_about_the_model_is_no_verdict(
    client: ServerClient, stub: StubServer, status: int
) -> None:
    stub.answer_completion = refuses(status)
    with pytest.raises(RequestRejected):
        await tested(client)


async def test_context_that_is_too_short_is_no_verdict(client: ServerClient, stub: StubServer) -> None:
    text = "This model's maximum context length is 16 tokens."
    stub.answer_completion = lambda request: (400, {"error": {"message": text}})
    with pytest.raises(ContextExceeded):
        await tested(client)


async def test_failing_with_logprobs_alone_is_what_nan_looks_like(client: ServerClient, stub: StubServer) -> None:
    stub.answer_completion = refuses(500, "logprobs")
    found = await tested(client)
    assert not found.passed
    assert "NaN" in str(found.reasons[0])
    assert found.prompts[0].text == "Hello, my name is, indeed"


async def test_vllms_own_words_for_nan(client: ServerClient, stub: StubServer) -> None:
    """It has status 400, as if the request were wrong."""
    body = {"error": {"message": "Out of range float values are not JSON compliant", "type": "BadRequestError"}}
    stub.answer_completion = lambda request: (400, body) if "logprobs" in request else answers()(request)
    found = await tested(client)
    assert [phrase.code for reason in found.reasons for phrase in reason.phrases] == ["smoke_fails_with_logprobs"]


async def test_only_prompt_logprobs_failing_is_no_nan(client: ServerClient, stub: StubServer) -> None:
    stub.answer_completion = refuses(500, "prompt_logprobs", otherwise=answers(prompt_logprobs=None))
    found = await tested(client)
    assert found.passed
    assert found.not_judged


async def test_null_in_place_of_a_number(client: ServerClient, stub: StubServer) -> None:
    tokens = {"tokens": ["!", "!"], "token_logprobs": [None, None], "top_logprobs": [{"!": None}, {"!": None}]}
    stub.answer_completion = answers(logprobs=tokens)
    found = await tested(client)
    assert [phrase.code for reason in found.reasons for phrase in reason.phrases] == ["smoke_not_numbers"]


async def test_server_that_fails_is_told_with_its_own_words(client: ServerClient, stub: StubServer) -> None:
    stub.answer_completion = refuses(500)
    found = await tested(client)
    assert str(found.reasons[0]).startswith("It answers 4 of 4 prompts with an error:")
    assert "I do not know that" in str(found.reasons[0])
    assert found.as_dict()["prompts"][0]["text"] is None


async def test_engine_that_dies_in_between(client: ServerClient, stub: StubServer) -> None:
    calls: list[Request] = []

    def answer(request: Request) -> tuple[int, object]:
        calls.append(request)
        return (
            answers()(request) if len(calls) < 3 else (500, {"error": {"message": "EngineCore encountered an issue"}})
        )

    stub.answer_completion = answer
    found = await tested(client)
    assert not found.passed
    assert sum(prompt.text is None for prompt in found.prompts) == 2


async def test_something_else_than_a_completion(client: ServerClient, stub: StubServer) -> None:
    stub.answer_completion = lambda request: (200, {"hello": "world"})
    found = await tested(client)
    assert not found.passed
    assert "hello" in str(found.reasons[0])


async def test_nobody_there_is_no_pass(client: ServerClient) -> None:
    gone = ServerClient(client.session, "http://127.0.0.1:9")
    found = await tested(gone)
    assert not found.passed
    assert "does not answer" in str(found.reasons[0])
