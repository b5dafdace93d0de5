"""What a server may send for a chat, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from chat_answers import ANSWER, DONE, MAX_TOKENS, TOO_LONG, UNKNOWN_MODEL, USAGE, chunk, sends
from fakes import AddModel, Answer, Deck, StubServer
from processes import free_port

from server_manager.answer_reader import AnswerReader
from server_manager.answer_text import AnswerText
from server_manager.chat_events import ChatEvents
from server_manager.chat_frames import TextFrame
from server_manager.client import ClientSession, ServerClient
from server_manager.errors import ContextExceeded, RequestRejected, ServerUnreachable
from server_manager.think_split import ThinkSplit
from server_manager.upstream import Connections

BODY = {"model": "m", "messages": []}


@contextmanager
def reading(client: ServerClient, *, inside: bool = False) -> Iterator[AnswerReader]:
    """An answer of a server that somebody else runs."""
    server: Any = SimpleNamespace(name="m", status=SimpleNamespace(attached=True), stream_lease=nullcontext)
    connections = Connections()
    reader = AnswerReader(server, client, connections, BODY, ThinkSplit(thinking=inside))
    with closing(connections), closing(reader):
        yield reader


async def ask(client: ServerClient, *, inside: bool = False) -> Answer:
    answer = Answer()
    with reading(client, inside=inside) as reader:
        while frame := await reader.next_text():
            answer.add(frame)
        answer.add(reader.done())
    return answer


def check_answer(answer: Answer) -> None:
    assert answer.content == "grün € 😀"
    assert "".join(frame.reasoning for frame in answer.texts) == "Hm. Ja, "
    assert answer.done is not None
    assert answer.done.finish_reason == "stop"
    assert (answer.done.prompt_tokens, answer.done.completion_tokens) == (7, 3)


def events_of(*blocks: bytes) -> list[bytes]:
    events = ChatEvents()
    return [event for block in blocks for event in events.split(block)]


def test_a_stream_cut_anywhere_reads_the_same() -> None:
    whole = events_of(ANSWER)
    assert len(whole) == 8
    for cut in range(len(ANSWER)):
        assert events_of(ANSWER[:cut], ANSWER[cut:]) == whole
    assert events_of(*(bytes([byte]) for byte in ANSWER)) == whole


async def test_one_read_may_hold_the_whole_answer(client: ServerClient, stub: StubServer) -> None:
    stub.stream = sends(ANSWER)
    check_answer(await ask(client))
    request = {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    assert stub.requests == [request]


async def test_an_answer_in_pieces(client: ServerClient, stub: StubServer) -> None:
    stub.stream = sends(*(ANSWER[i : i + 37] for i in range(0, len(ANSWER), 37)))
    check_answer(await ask(client))


async def test_a_stream_that_ends_without_the_empty_line(client: ServerClient, stub: StubServer) -> None:
    stub.stream = sends(chunk(content="x"), b"data:[DONE]")
    assert (await ask(client)).content == "x"


@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("tail", [b"", b'data: {"choices'])
async def test_a_stream_without_done_broke_off(
    client: ServerClient, stub: StubServer, abort: bool, tail: bytes
) -> None:
    stub.stream = sends(chunk(content="x"), tail or b": comment\n\n", abort=abort)
    with reading(client) as reader:
        assert (await reader.next_text()) == TextFrame("x", "")
        with pytest.raises(ServerUnreachable, match="broke off"):
            await reader.next_text()


async def test_an_error_in_mid_answer(client: ServerClient, stub: StubServer) -> None:
    error = (
        b'data: {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}'
    )
    stub.stream = sends(chunk(content="x"), error + b"\n\n", DONE)
    with pytest.raises(RequestRejected, match=r"The answer broke off: EngineCore encountered an issue\.") as caught:
        await ask(client)
    assert caught.value.facts["status"] == 500


async def test_a_chunk_that_is_none(client: ServerClient, stub: StubServer) -> None:
    stub.stream = sends(b"data: <html>\n\n", DONE)
    with pytest.raises(RequestRejected, match="no chat chunk"):
        await ask(client)


async def test_too_long_with_its_numbers(client: ServerClient, stub: StubServer) -> None:
    stub.rejection = (400, TOO_LONG)
    with pytest.raises(ContextExceeded, match="--max-model-len") as caught:
        await ask(client)
    assert caught.value.facts == {"max_model_len": 2048, "prompt_tokens": 2049}


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, MAX_TOKENS, "max_tokens=5000 cannot be greater than max_model_len=2048"),
        (404, UNKNOWN_MODEL, "The model `nope` does not exist.*See its served-model-name"),
        (401, b'{"error": "Unauthorized"}', "wants another API key: Unauthorized.*DECK_ATTACH_API_KEY"),
        (503, b"overloaded", "too busy.*overloaded.*Send again"),
        (500, b"", "HTTP status 500"),
        (422, b'{"error": {"message": 5}}', "refused"),
        (502, b"\xff<html>", "refused"),
    ],
)
async def test_refusals_are_passed_on(
    client: ServerClient, stub: StubServer, status: int, body: bytes, message: str
) -> None:
    stub.rejection = (status, body)
    with pytest.raises(RequestRejected, match=message) as caught:
        await ask(client)
    assert caught.value.facts["status"] == status


async def test_nobody_there(session: ClientSession) -> None:
    with pytest.raises(ServerUnreachable, match="does not answer"):
        await ask(ServerClient(session, f"http://127.0.0.1:{free_port()}"))


async def test_text_before_an_error_is_not_lost(client: ServerClient, stub: StubServer) -> None:
    """Also where both come in one piece."""
    stub.stream = sends(chunk(content="half") + b'data: {"error": "gone"}\n\n' + chunk(content="more") + DONE)
    with reading(client) as reader:
        assert await reader.next_text() == TextFrame("half", "")
        with pytest.raises(RequestRejected, match="The answer broke off: gone"):
            await reader.next_text()


async def test_first_text_does_not_wait_and_a_pause_gathers_more(client: ServerClient, stub: StubServer) -> None:
    stub.stream = sends(chunk(role="assistant", content=""), *(chunk(content=f"{i} ") for i in range(5)), USAGE + DONE)
    with reading(client) as reader:
        assert await reader.next_text() == TextFrame("0 ", "")
        await reader.pause(60)  # over with the answer
        assert await reader.next_text() == TextFrame("1 2 3 4 ", "", 3)
        assert await reader.next_text() is None
        await reader.pause(60)


async def test_thinking_in_the_text_is_told_apart(client: ServerClient, stub: StubServer) -> None:
    stub.stream = sends(chunk(content="<thi"), chunk(content="nk>Hm.</think>"), chunk(content="\n\nYes."), DONE)
    answer = await ask(client)
    assert (answer.content, "".join(frame.reasoning for frame in answer.texts)) == ("Yes.", "Hm.")
    assert answer.done is not None
    assert answer.done.reasoning_s is not None
    assert answer.done.reasoning_tokens is None, "nobody has said"
    stub.stream = sends(chunk(content="Hm."), chunk(content="\n</think>\nYes."), DONE)
    answer = await ask(client, inside=True)
    assert (answer.content, "".join(frame.reasoning for frame in answer.texts)) == ("Yes.", "Hm.")


async def test_closing_it_aborts_it_in_the_server(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"served-model-name": "m"}, answer_tokens=10_000, tokens_per_second=50)
    with reading((await deck.ready("m")).client()) as reader:
        await reader.next_text()
        await deck.reach_running("m", 1)
    await deck.reach_running("m", 0)


def told(*chunks: bytes) -> AnswerText:
    text = AnswerText(ChatEvents(), ThinkSplit())
    text.feed(b"".join(chunks))
    return text


def with_ids(count: int, **delta: object) -> bytes:
    choice = {"index": 0, "delta": delta, "token_ids": list(range(count))}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def usage(completion: int, reasoning: int) -> bytes:
    details = {"reasoning_tokens": reasoning}
    figures = {"prompt_tokens": 7, "completion_tokens": completion, "completion_tokens_details": details}
    return b"data: " + json.dumps({"choices": [], "usage": figures}).encode() + b"\n\n"


def test_tokens_are_counted_as_they_come() -> None:
    text = told(
        with_ids(1, reasoning="Hm"), with_ids(4, reasoning=", so.", content="Y"), with_ids(2), with_ids(3, content="es")
    )
    frame = text.take(last=False)
    assert frame is not None
    assert (frame.content, frame.reasoning, frame.tokens) == ("Yes", "Hm, so.", 10)
    assert text.figures().reasoning_tokens == 4, "of the mixed chunk five parts of six"
    assert text.figures().completion_tokens == 10, "a stopped answer has no other figure"
    text.feed(usage(10, 3) + DONE)
    assert text.figures().reasoning_tokens == 3, "the server's own word"
    text.feed(usage(10, 0))
    assert text.figures().reasoning_tokens == 4, "0 where the template opens the thinking: vLLM sees no opening tag"


def test_answer_without_thinking_has_no_time_of_it() -> None:
    text = told(with_ids(1, content="Yes"), usage(1, 0), DONE)
    text.end()
    figures = text.figures()
    assert (figures.reasoning_tokens, figures.reasoning_s) == (0, None)


def test_content_turns_out_to_have_been_thinking() -> None:
    text = told(with_ids(2, content="Hm."))
    assert text.take(last=False) == TextFrame("Hm.", "", 2)
    text.feed(with_ids(1, content=" So."))
    text.feed(with_ids(3, content="\n</think>\n\nYes"))
    assert text.take(last=False) == TextFrame("Yes", " So.", 6, recast=True)
    assert text.figures().reasoning_tokens == 3
    assert text.figures().reasoning_s is not None
