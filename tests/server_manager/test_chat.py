"""From a question to its answer, over real processes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from fakes import CONVERSATION, OWNER, AddModel, Answer, Deck
from stage import Stage

from server_manager.chat import ChatRequest, ChatService
from server_manager.chat_frames import DoneFrame, TextFrame, TurnFrame
from server_manager.conversations.store import ConversationStore
from server_manager.errors import (
    ContextExceeded,
    NotAllowed,
    RequestRejected,
    ServerUnreachable,
    SpecError,
    StartError,
    TooManyAnswers,
    UnknownModel,
)
from server_manager.server_state import ServerState

PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()


async def received(deck: Deck, text: str = "hello", **fields: Any) -> dict[str, Any]:
    """The request as the server got it: the fake's echo."""
    body: dict[str, Any] = json.loads((await deck.ask("echo", text, **fields)).content)
    return body


def answered(answer: Answer) -> DoneFrame:
    assert answer.done is not None
    return answer.done


async def test_answer_of_a_server_that_must_start_first(deck: Deck, add_model: AddModel) -> None:
    add_model("m", ready_after=2.5)
    answer = await deck.ask("m")
    assert answer.content == "".join(f"word{i} " for i in range(8))
    assert [frame.status.state for frame in answer.progress] == [ServerState.STARTING] * len(answer.progress)
    assert len(answer.progress) >= 2
    waited = [frame.elapsed_s for frame in answer.progress]
    assert waited == sorted(waited)
    assert any(frame.status.phase for frame in answer.progress)
    done = answered(answer)
    assert (done.finish_reason, done.prompt_tokens, done.completion_tokens) == ("stop", 5, 8)
    assert done.first_token_s is not None
    assert done.tokens_per_second is not None


async def test_first_text_comes_at_once(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=10, tokens_per_second=0.2)
    await deck.ready("m")
    async with aclosing(
        deck.chat.answer(ChatRequest(CONVERSATION, "m", "hello"), owner=OWNER, may_start=True)
    ) as frames:
        assert isinstance(await anext(frames), TurnFrame)
        assert await anext(frames) == TextFrame("word0 ", "", 1), "the second word is five seconds away"


async def test_later_text_comes_in_frames(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=300, tokens_per_second=300)
    await deck.ready("m")
    answer = await deck.ask("m")
    assert answer.content == "".join(f"word{i} " for i in range(300))
    assert 1 < len(answer.texts) < 100, "not a frame per token"
    assert answered(answer).completion_tokens == 300


async def test_32_chats_at_once_lose_nothing(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=200, tokens_per_second=100)
    await deck.ready("m")
    answers = await asyncio.gather(*(deck.ask("m", conversation=f"conversation-{i}") for i in range(32)))
    assert {answer.content for answer in answers} == {"".join(f"word{i} " for i in range(200))}
    for index in range(32):
        turns = await deck.turns(f"conversation-{index}")
        assert [turn.assistant for turn in turns] == [answers[0].content]
    await deck.reach_running("m", 0)


async def test_reasoning_is_kept_apart_and_never_sent_back(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"reasoning-parser": "qwen3"}, reasoning_tokens=3, answer_tokens=2)
    answer = await deck.ask("m")
    assert "".join(frame.reasoning for frame in answer.texts) == "thought0 thought1 thought2 "
    assert answer.content == "word0 word1 "
    assert (await deck.turns())[0].reasoning == "thought0 thought1 thought2 "
    add_model("echo", echo=1)
    assert "thought" not in json.dumps(await received(deck))


async def test_server_receives_system_prompt_history_and_sampling(deck: Deck, add_model: AddModel) -> None:
    add_model("echo", {"served-model-name": "alias"}, echo=1)
    first = await received(deck, "one", system_prompt="Be brief.", sampling={"temperature": 0.1, "top_k": 5})
    assert first["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]
    assert (first["temperature"], first["top_k"], first["model"]) == (0.1, 5, "alias")
    assert first["stream_options"] == {"include_usage": True}
    second = await received(deck, "zwei €")
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][0]["content"] == "one"
    assert json.loads(second["messages"][1]["content"]) == first
    assert second["messages"][2]["content"] == "zwei €"
    assert "temperature" not in second
    assert len(await deck.turns()) == 2


async def test_thinking_is_the_templates_own_word(deck: Deck, add_model: AddModel, tmp_path: Path) -> None:
    add_model("echo", echo=1)
    template = tmp_path / "weights" / "echo" / "chat_template.jinja"
    template.write_text("{% if enable_thinking is false %}{{ messages }}{% endif %}")
    assert "chat_template_kwargs" not in await received(deck)
    assert (await received(deck, thinking=False))["chat_template_kwargs"] == {"enable_thinking": False}


async def test_image_for_a_model_without_eyes_is_refused_before_it_is_started(deck: Deck, add_model: AddModel) -> None:
    add_model("m")
    with pytest.raises(NotAllowed, match=r"m cannot see images\. Pick a vision model"):
        await deck.ask("m", "what is it?", images=[PNG])
    assert deck.manager.server("m").status.state is ServerState.STOPPED
    assert not await deck.turns()


async def test_image_stays_in_the_conversation(deck: Deck, add_model: AddModel, tmp_path: Path) -> None:
    add_model("echo", echo=1)
    (tmp_path / "weights" / "echo" / "config.json").write_text('{"vision_config": {"depth": 1}}')
    sent = await received(deck, "what is it?", images=[PNG])
    assert sent["messages"][-1]["content"] == [
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "text", "text": "what is it?"},
    ]
    again = await received(deck, "and its colour?")
    assert again["messages"][0] == sent["messages"][-1]
    add_model("blind")
    with pytest.raises(NotAllowed, match="has some further up"):
        await deck.ask("blind", "and you?")


async def test_a_user_has_so_many_answers_at_once(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=10_000, tokens_per_second=50)
    await deck.ready("m")
    asking = asyncio.create_task(deck.ask("m", conversation="conversation-2", most=1))
    await deck.reach_running("m", 1)
    with pytest.raises(TooManyAnswers, match="1 of your questions"):
        await deck.ask("m", most=1)
    frames = deck.chat.answer(ChatRequest(CONVERSATION, "m", "hi"), owner="another", may_start=True, most=1)
    async with aclosing(frames):
        assert isinstance(await anext(frames), TurnFrame), "another user's answers do not count"
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert (await deck.ask("m", most=1, sampling={"max_tokens": 1})).content, "the place is free again"


async def alone(deck: Deck, model: str, text: str, **fields: Any) -> list[str]:
    """The texts of an answer outside any conversation."""
    options: dict[str, Any] = {
        "owner": OWNER,
        "may_start": fields.pop("may_start", True),
        "most": fields.pop("most", None),
    }
    request = ChatRequest("", model, text, **fields)
    async with aclosing(deck.chat.answer_alone(request, **options)) as texts:
        return [found async for found in texts]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_answer_outside_a_conversation_holds_to_the_same_rules(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"max-model-len": 2000}, parrot=1)
    with pytest.raises(NotAllowed, match="m is not up"):
        await alone(deck, "m", "hello", may_start=False)
    texts = await alone(deck, "m", "<think>not for\nscripts</think>\n\nThe answer")
    assert texts[-1] == "The answer"
    assert not any("scripts" in text for text in texts)
    assert (await alone(deck, "m", "thought\n</think>\n\nThe answer"))[-1] == "The answer", "no opening tag"
    with pytest.raises(ContextExceeded):
        await alone(deck, "m", "word " * 3000)

    add_model("slow", answer_tokens=10_000, tokens_per_second=50)
    await deck.ready("slow")
    asking = asyncio.create_task(deck.ask("slow", conversation="conversation-2", most=1))
    await deck.reach_running("slow", 1)
    with pytest.raises(TooManyAnswers, match="1 of your questions"):
        await alone(deck, "m", "hello", most=1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert (await alone(deck, "m", "hello", most=1))[-1] == "hello", "the place is free again"


async def test_fast_server_is_asked_for_larger_chunks(deck: Deck, add_model: AddModel) -> None:
    add_model("echo", echo=1)
    first = await received(deck)
    assert first["stream_interval"] == 1, "nothing is known"
    assert (await received(deck))["stream_interval"] == 8, "the echo comes as fast as it can"


async def test_sampling_that_makes_no_sense_is_refused(deck: Deck, add_model: AddModel) -> None:
    add_model("echo", echo=1)
    with pytest.raises(SpecError, match="temperature"):
        await deck.ask("echo", sampling={"temperature": 9})
    assert await deck.turns() == ()


async def test_max_tokens_is_what_the_context_leaves(deck: Deck, add_model: AddModel) -> None:
    add_model("echo", {"max-model-len": 1000}, echo=1)
    short = await received(deck, "word " * 5, sampling={"max_tokens": 100})
    assert short["max_tokens"] == 100, "it fits as it is"
    await deck.conversations.delete(CONVERSATION, OWNER)
    long = await received(deck, "word " * 900, sampling={"max_tokens": 800})
    assert long["max_tokens"] == 1000 - 904
    await deck.conversations.delete(CONVERSATION, OWNER)
    with pytest.raises(ContextExceeded, match="2,004 tokens") as caught:
        await deck.ask("echo", "word " * 2000)
    assert caught.value.facts == {"prompt_tokens": 2004, "max_model_len": 1000}


async def test_question_that_is_too_long_is_not_kept(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"max-model-len": 100})
    await deck.ask("m", "short")
    with pytest.raises(ContextExceeded, match="shorten the message"):
        await deck.ask("m", "word " * 200)
    assert [turn.user for turn in await deck.turns()] == ["short"]
    assert (await deck.ask("m", "short again")).content


async def test_stop_keeps_the_text_so_far_and_frees_the_server(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=10_000, tokens_per_second=50)
    await deck.ready("m")
    frames = deck.chat.answer(ChatRequest(CONVERSATION, "m", "hello"), owner=OWNER, may_start=True)
    seen = ""
    async with aclosing(frames):
        assert isinstance(await anext(frames), TurnFrame)
        async for frame in frames:
            assert isinstance(frame, TextFrame)
            seen += frame.content
            if "word5 " in seen:
                break
        await deck.reach_running("m", 1)
    assert [turn.assistant for turn in await deck.turns()] == [seen]
    assert (await deck.turns())[0].note == "stopped"
    await deck.reach_running("m", 0)
    assert not await deck.is_busy()


async def test_cancelled_request_is_a_stop_too(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=10_000, tokens_per_second=50)
    await deck.ready("m")
    asking = asyncio.create_task(deck.ask("m"))
    await deck.reach_running("m", 1)
    await asyncio.sleep(0.2)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await deck.turns())[0].assistant.startswith("word0 ")
    await deck.reach_running("m", 0)


async def test_tab_that_closes_while_the_server_starts_does_not_end_the_start(deck: Deck, add_model: AddModel) -> None:
    add_model("m", ready_after=2.5)
    frames = deck.chat.answer(ChatRequest(CONVERSATION, "m", "hello"), owner=OWNER, may_start=True)
    await anext(frames)
    await frames.aclose()
    assert await deck.turns() == ()
    await deck.reach("m", ServerState.READY)


async def test_an_edited_question_leaves_what_followed_the_old_one(deck: Deck, add_model: AddModel) -> None:
    add_model("echo", echo=1)
    for text in ("one", "two", "three"):
        await deck.ask("echo", text)
    first = (await deck.turns())[0].id
    edited = await received(deck, "zwei", parent=first)
    assert [m["content"] for m in edited["messages"] if m["role"] == "user"] == ["one", "zwei"]
    assert [turn.user for turn in await deck.turns()] == ["one", "zwei"]


async def test_an_edit_that_fails_leaves_the_turns(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"max-model-len": 100})
    await deck.ask("m", "one")
    with pytest.raises(ContextExceeded):
        await deck.ask("m", "word " * 200, parent=None)
    assert [turn.user for turn in await deck.turns()] == ["one"]


async def test_second_tab_of_a_conversation_has_to_wait(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=10_000, tokens_per_second=50)
    await deck.ready("m")
    asking = asyncio.create_task(deck.ask("m"))
    await deck.reach_running("m", 1)
    with pytest.raises(NotAllowed, match="being answered already"):
        await deck.ask("m", "me too")
    with pytest.raises(NotAllowed):
        await deck.conversations.delete(CONVERSATION, OWNER)
    assert await deck.running("m") == 1
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await deck.conversations.delete(CONVERSATION, OWNER)


async def test_conversation_of_somebody_else(deck: Deck, add_model: AddModel) -> None:
    add_model("m")
    await deck.ask("m", owner="anna")
    with pytest.raises(NotAllowed, match="somebody else's"):
        await deck.ask("m", owner="berta")
    with pytest.raises(NotAllowed):
        await deck.conversations.delete(CONVERSATION, "berta")
    assert len(await deck.turns(owner="anna")) == 1


async def test_leader_killed_in_mid_answer(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=10_000, tokens_per_second=50)
    server = await deck.ready("m")
    asking = asyncio.create_task(deck.ask("m"))
    await deck.reach_running("m", 1)
    await asyncio.sleep(0.2)
    assert server.status.pid is not None
    os.kill(server.status.pid, signal.SIGKILL)
    with pytest.raises(ServerUnreachable, match="vLLM ended while it served") as caught:
        await asking
    assert "Send again to start it" in caught.value.next_step
    assert (await deck.turns())[0].assistant.startswith("word0 ")
    assert "vLLM ended while it served" in (await deck.turns())[0].note


async def test_answer_after_a_crash_starts_the_server_again(deck: Deck, add_model: AddModel) -> None:
    add_model("m", answer_tokens=10, tokens_per_second=100, crash_after=15)
    assert (await deck.ask("m")).content.split()[-1] == "word9"
    with pytest.raises(ServerUnreachable):
        await deck.ask("m")
    add_model("m", answer_tokens=10)
    assert (await deck.ask("m")).content.split()[-1] == "word9"
    assert [bool(turn.note) for turn in await deck.turns()] == [False, True, False]


async def _ask_stage(stage: Stage, *, engine_dies: bool) -> Answer:
    """A question to a server whose answer ends in an error event, as vLLM's does when its engine dies."""
    stage.http.health = 200

    async def stream(response: web.StreamResponse) -> None:
        await response.write(b'data: {"choices":[{"delta":{"content":"half"}}]}\n\n')
        await response.write(b'data: {"error":{"message":"EngineCore encountered an issue.","code":500}}\n\n')
        if engine_dies:
            stage.http.health = 503
            (stage.settings.logs_dir / "x.log").write_text("torch.OutOfMemoryError: CUDA out of memory.\n")
            stage.launcher.handle.end(0)

    stage.http.stream = stream

    @asynccontextmanager
    async def use(name: str) -> AsyncIterator[object]:
        await stage.server.ensure_ready()
        yield stage.server

    catalogue = SimpleNamespace(names=lambda: ())
    manager = SimpleNamespace(server=lambda name: stage.server, use=use, catalogue=catalogue, local_files=None)
    chat = ChatService(manager, ConversationStore())  # type: ignore[arg-type]
    answer = Answer()
    async for frame in chat.answer(ChatRequest(CONVERSATION, "m", "hello"), owner=OWNER, may_start=True):
        answer.add(frame)
    return answer


async def test_error_event_of_a_dying_engine_is_told_as_its_death(stage: Stage) -> None:
    with pytest.raises(ServerUnreachable, match="The GPU ran out of memory while it served"):
        await _ask_stage(stage, engine_dies=True)


async def test_error_event_of_a_server_that_lives_is_told_as_it_came(stage: Stage) -> None:
    with pytest.raises(RequestRejected, match=r"The answer broke off: EngineCore encountered an issue\."):
        await _ask_stage(stage, engine_dies=False)
    assert stage.server.status.state is ServerState.READY


async def test_start_that_fails_is_told(deck: Deck, add_model: AddModel) -> None:
    add_model("m", exit_code=1)
    with pytest.raises(StartError, match="m did not start"):
        await deck.ask("m")
    assert await deck.turns() == ()


async def test_user_who_may_not_start(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"enable-sleep-mode": True})
    with pytest.raises(NotAllowed, match="Ask an operator"):
        await deck.ask("m", may_start=False)
    assert deck.manager.server("m").status.state is ServerState.STOPPED
    server = await deck.ready("m")
    assert (await deck.ask("m", may_start=False)).content
    await server.sleep()
    assert (await deck.ask("m", may_start=False)).content, "waking is for everybody"


async def test_unknown_model(deck: Deck, add_model: AddModel) -> None:
    add_model("m")
    with pytest.raises(UnknownModel):
        await deck.ask("nope")
    assert not await deck.is_busy()


async def test_sleeping_server_is_woken_by_a_question(deck: Deck, add_model: AddModel) -> None:
    add_model("m", {"enable-sleep-mode": True}, sleep_seconds=0.3)
    server = await deck.ready("m")
    await server.sleep()
    assert (await deck.ask("m")).content
    assert server.status.state is ServerState.READY
