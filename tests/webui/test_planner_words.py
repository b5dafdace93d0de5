"""What the memory planner says, in Chinese: every sentence that it has in English."""

from __future__ import annotations

from string import Formatter

import pytest

from server_manager.diagnosis.refusals import diagnose_refusal
from server_manager.memory_plan.chosen import ChosenFlags
from server_manager.memory_plan.need import MemoryNeed
from server_manager.memory_plan.places import Places
from server_manager.memory_plan.planner import StartRequest, decide_start
from server_manager.memory_plan.release import Action, Sleep, Stop, WaitFor, WaitReason
from server_manager.memory_plan.words import ENGLISH, start_words, wake_words
from server_manager.memory_plan.world import GIB, Device, UpServer, World
from server_manager.server_state import ExitCause, ServerExit, ServerState, ServerStatus
from server_manager.status_cell import StatusCell
from webui.locales import planner_words
from webui.snapshot import status_dict

GPU = Device("GPU-a", 0, 80 * GIB, 20 * GIB)
NEED = MemoryNeed(1, 1, 14 * GIB, 2 * GIB, 4 * GIB, 4 * GIB)


def names(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_every_sentence_has_its_chinese_with_the_same_facts() -> None:
    words = planner_words()["zh-CN"]
    assert words.keys() == ENGLISH.keys()
    assert {code: names(text) for code, text in words.items()} == {code: names(text) for code, text in ENGLISH.items()}


@pytest.mark.parametrize(
    ("actions", "english", "chinese"),
    [
        (
            (Sleep("a", 1, GIB), Sleep("b", 1, GIB), Stop("c", GIB)),
            "a and b are put to sleep and c is stopped for new: "
            "it needs at least 20.0 GiB, and 20.0 GiB are free on GPU 0.",
            "为 new 腾出空间，a、b 转入休眠，停止 c：至少需要 20.0 GiB，GPU 0 空闲 20.0 GiB。",
        ),
        (
            (WaitFor("a", WaitReason.IN_USE), WaitFor("b", WaitReason.ENDING)),
            "new waits for a, which is in use and b, whose memory is coming free: "
            "it needs at least 20.0 GiB, and 20.0 GiB are free on GPU 0.",
            "new 等待 a 答完、b 释放显存：至少需要 20.0 GiB，GPU 0 空闲 20.0 GiB。",
        ),
    ],
)
def test_what_is_done_for_a_start_is_told_on_the_page(actions: tuple[Action, ...], english: str, chinese: str) -> None:
    words = start_words("new", NEED, [(GPU, 20 * GIB)], actions, (), is_doubtful=False)
    assert words == english
    cell = StatusCell(ServerStatus("new", ServerState.STARTING))
    cell.update(detail=words)
    shown = status_dict(cell.value)
    assert (shown["detail"], shown["detail_translations"]) == (english, {"zh-CN": chinese})
    cell.update(detail="1/2")
    assert status_dict(cell.value)["detail_translations"] == {}


def test_wake_is_told_with_each_gpu() -> None:
    words = wake_words("m", [(GPU, 9 * GIB, 7 * GIB), (GPU, 8 * GIB, 7 * GIB)], (Sleep("a", 1, GIB),))
    parts = "9.0 GiB, and 7.0 GiB are free on GPU 0 and 8.0 GiB, and 7.0 GiB are free on GPU 0"
    assert words == f"a is put to sleep for m: it takes back {parts}."


def test_refusal_is_told_in_chinese_with_its_numbers() -> None:
    kept = UpServer("other", ServerState.READY, held={"GPU-a": 50 * GIB}, may_be_freed=False)
    request = StartRequest("m", (NEED,), ChosenFlags(gpu_memory_utilization=0.9), Places((GPU,)))
    refused = decide_start(request, World((GPU,), (kept,), 0))
    end = ServerExit(ExitCause.NOT_LAUNCHED, "no", diagnosis=diagnose_refusal(refused))  # type: ignore[arg-type]
    why = status_dict(ServerStatus("m", ServerState.FAILED, exit=end))["exit"]["diagnosis"]
    assert why["title"].startswith("m needs ")
    assert why["translations"]["zh-CN"] == {
        "title": "m 需要 GPU 0 的 72.6 GiB（gpu-memory-utilization 0.9）；共 80.0 GiB，空闲 20.0 GiB，可腾出 0.0 GiB。"
        "其余占用者：other（50.0 GiB）、其他进程（10.0 GiB）。",
        "remedy": "请缩短 max-model-len、换用更小或量化的模型，或使用更多 GPU。",
    }
