"""A failure as the page gets it: every cause in Chinese too, and flags and proofs for operators alone."""

from __future__ import annotations

from pathlib import Path
from string import Formatter

from server_manager import Catalogue, Diagnosis, Fix, ServerExit, ServerState, ServerStatus
from server_manager.diagnosis.rules import RULES, STRAY_RULES
from server_manager.server_state import ExitCause
from webui.failure_view import for_operators, translated
from webui.locales import failure_words, messages
from webui.snapshot import status_dict, without_command

BESIDE_THE_TABLE = {"unknown", "killed", "died_of_signal", "terminated", "no_reason", "stopped_by_others"}
CAUSES = {rule.cause for rule in (*RULES, *STRAY_RULES)} | BESIDE_THE_TABLE


def names(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_every_cause_is_told_in_chinese() -> None:
    words = failure_words()["zh-CN"]
    assert set(words) == {f"{part}_{cause}" for cause in CAUSES for part in ("why", "remedy")}
    assert all(text.strip() for text in words.values())


def test_chinese_has_no_placeholder_that_english_has_not() -> None:
    words = failure_words()["zh-CN"]
    for cause in {rule.cause for rule in (*RULES, *STRAY_RULES)}:
        known = set().union(
            *(names(rule.title + rule.remedy) for rule in (*RULES, *STRAY_RULES) if rule.cause == cause)
        )
        assert names(words[f"why_{cause}"] + words[f"remedy_{cause}"]) <= known, cause


def test_there_are_at_least_forty_causes() -> None:
    assert len(CAUSES) > 100


def test_what_cannot_be_filled_in_stays_english() -> None:
    facts = {"length": 32768, "estimate": 1696}
    assert translated(Diagnosis("kv_cache_too_small", "It is.", facts=facts))["zh-CN"].keys() == {"remedy"}
    assert translated(Diagnosis("nothing of ours", "It is."))["zh-CN"] == {}


def test_labels_have_their_words() -> None:
    for words in ("with", "without", "instead", "ask", "trust", "modelscope", "hub", "from"):
        assert f"fix_{words}" in messages()["en"]


def failed(*fixes: Fix) -> ServerStatus:
    why = Diagnosis("gpu_busy", "The GPU is busy.", "ValueError: Free memory on device", 50, "Free it.", fixes=fixes)
    end = ServerExit(ExitCause.FAILED_TO_START, "It ended.", diagnosis=why)
    return ServerStatus("m", ServerState.FAILED, exit=end, command="vllm serve x")


def catalogue(folder: Path) -> Catalogue:
    (folder / "m.yaml").write_text("model: org/m\ngpu-memory-utilization: 0.9\n")
    return Catalogue(folder, folder / "none-shipped")


def test_operators_see_what_a_fix_changes(tmp_path: Path) -> None:
    lower = Fix("lower", "Start with less", {"gpu-memory-utilization": 0.1}, words="with", facts={"change": "less"})
    nothing = Fix("nothing", "Start without --port", {"port": None})
    status = failed(lower, nothing)
    shown = for_operators(status_dict(status), status, catalogue(tmp_path))["exit"]["diagnosis"]
    assert [fix["id"] for fix in shown["fixes"]] == ["lower"]
    assert shown["fixes"][0]["removed"] == ("--gpu-memory-utilization 0.9",)
    assert shown["fixes"][0]["added"] == ("--gpu-memory-utilization 0.1",)
    assert shown["evidence"].startswith("ValueError")


def test_others_see_the_cause_alone(tmp_path: Path) -> None:
    status = failed(Fix("lower", "Start with less", {"gpu-memory-utilization": 0.1}))
    shown = without_command(for_operators(status_dict(status), status, catalogue(tmp_path)))
    assert shown["command"] == ""
    why = shown["exit"]["diagnosis"]
    assert (why["title"], why["remedy"]) == ("The GPU is busy.", "Free it.")
    assert (why["evidence"], why["fixes"]) == ("", [])


def test_a_model_whose_file_is_gone_has_no_fixes(tmp_path: Path) -> None:
    status = failed(Fix("lower", "Start with less", {"gpu-memory-utilization": 0.1}))
    folder = catalogue(tmp_path)
    (tmp_path / "m.yaml").unlink()
    assert for_operators(status_dict(status), status, folder)["exit"]["diagnosis"]["fixes"] == []
