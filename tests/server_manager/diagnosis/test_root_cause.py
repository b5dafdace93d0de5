"""Which exception of a log is the cause, and what is no cause at all."""

from __future__ import annotations

import json

import pytest

from server_manager.diagnosis import Diagnosis, diagnose

WRAPPER = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
FRAME = '  File "/venv/x.py", line 1, in load'


def engine(text: str, process: str = "EngineCore") -> list[str]:
    return [f"({process} pid=3) ERROR 11-22 10:45:47 [x.py:1] {line}" for line in text.split("\n")]


def evidence(lines: list[str]) -> str | None:
    found = diagnose(lines)
    return found.evidence if found else None


def test_the_first_of_the_engine_goes_before_the_last_of_all() -> None:
    lines = [
        "OSError: early and handled",
        *engine("FooError: the cause", "Worker_TP0"),
        *engine("RuntimeError: what followed", "Worker_TP1"),
        WRAPPER,
    ]
    assert evidence(lines) == "FooError: the cause"
    assert evidence(lines[:1]) == "OSError: early and handled"
    assert evidence([*lines, "vllm: error: unrecognized arguments: --x"]) == "vllm: error: unrecognized arguments: --x"


def test_no_lines_no_cause() -> None:
    assert diagnose([]) is None
    assert diagnose(["INFO all is well", "  ValueError: indented: a part of something else"]) is None
    assert diagnose(["(APIServer pid=1) WARNING 11-22 10:00:00 [x.py:1] ValueError: only a warning"]) is None


def test_a_known_rule_does_not_explain_another_exception() -> None:
    """The first exception is unknown: that a later one is known does not make it the cause."""
    lines = [*engine("FooError: the cause"), *engine("torch.OutOfMemoryError: CUDA out of memory."), WRAPPER]
    found = diagnose(lines)
    assert found is not None
    assert (found.cause, found.known, found.evidence) == ("unknown", False, "FooError: the cause")


def test_a_connection_that_breaks_is_not_the_cause() -> None:
    lines = [
        *engine("RuntimeError: NCCL error: remote process exited or there was a network error", "Worker_TP1"),
        *engine("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "Worker_TP0"),
    ]
    found = diagnose(lines)
    assert found is not None
    assert found.cause == "oom"
    assert found.line == 2


@pytest.mark.parametrize(
    "between", ["The above exception was the direct cause of the following exception:",
                "During handling of the above exception, another exception occurred:"],
)  # fmt: skip
def test_of_chained_exceptions_the_one_that_is_known_counts(between: str) -> None:
    chain = f"Traceback (most recent call last):\n{FRAME}\nhttpx.ConnectError: refused\n\n{between}\n\n"
    chain += f"Traceback (most recent call last):\n{FRAME}\nOSError: We couldn't connect to 'https://huggingface.co' to"
    found = diagnose(chain.split("\n"))
    assert found is not None
    assert found.cause == "hub_unreachable"
    assert found.evidence.startswith("OSError: We couldn't connect")
    known_first = chain.replace("httpx.ConnectError: refused", "OSError: [Errno 28] No space left on device")
    found = diagnose(known_first.replace("OSError: We couldn't connect to", "FooError: no").split("\n"))
    assert found is not None
    assert found.cause == "disk_full"


def test_an_unknown_chain_of_the_engine_is_shown_from_its_beginning() -> None:
    chain = f"EngineCore failed to start.\nTraceback (most recent call last):\n{FRAME}\nKeyError: 'x'\n\n"
    chain += "During handling of the above exception, another exception occurred:\n\n"
    chain += f"Traceback (most recent call last):\n{FRAME}\nFooError: y"
    assert evidence([*engine(chain), WRAPPER]) == "KeyError: 'x'"


@pytest.mark.parametrize(
    "head", ["Exception ignored in: <function AsyncLLM.__del__ at 0x7f>", "ERROR:    Exception in ASGI application",
             "Task exception was never retrieved", "--- Logging error ---"],
)  # fmt: skip
def test_tracebacks_that_end_nothing(head: str) -> None:
    aside = ["(APIServer pid=1) " + line for line in (head, "Traceback (most recent call last):", FRAME, "FooError: x")]
    if not head.startswith("ERROR"):
        assert diagnose(aside) is None
    assert evidence([*engine("BarError: the cause"), *aside]) == "BarError: the cause"


def test_the_second_line_of_pydantic_is_the_proof() -> None:
    lines = [
        "Traceback (most recent call last):",
        FRAME,
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, Sleep mode is not supported on current platform. [type=value_error, input_value=x]",
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
    ]
    found = diagnose(lines)
    assert found is not None
    assert (found.cause, found.line) == ("sleep_unsupported", 4)
    assert found.evidence == "Value error, Sleep mode is not supported on current platform."


def test_a_traceback_without_indentation_as_people_paste_it() -> None:
    pasted = (
        'Traceback (most recent call last):\nFile "x.py", line 1, in f\nreturn g(\n^^^^\nelse:\nFooError: the cause'
    )
    assert evidence(pasted.split("\n")) == "FooError: the cause"


def test_lines_of_other_processes_in_a_traceback() -> None:
    others = [
        'INFO:     127.0.0.1:1 - "GET /health HTTP/1.1" 200 OK',
        "Loading safetensors checkpoint shards:   0% | 0/1",
    ]
    lines = ["Traceback (most recent call last):", FRAME, *others, "FooError: the cause"]
    assert evidence(lines) == "FooError: the cause"


def test_a_very_long_proof_is_cut() -> None:
    found = evidence(["FooError: " + "x" * 5000])
    assert found is not None
    assert len(found) == 600


def test_json_records() -> None:
    """vLLM's own JSON formatter, and the files of Docker's json-file driver."""
    record = {"asctime": "x", "levelname": "ERROR", "message": "EngineCore failed to start.", "process": 3,
              "exc_info": f"Traceback (most recent call last):\n{FRAME}\nFooError: the cause",
              "vllm_process_name": "EngineCore"}  # fmt: skip
    assert evidence([json.dumps(record), WRAPPER]) == "FooError: the cause"
    docker = [json.dumps({"log": f"{line}\n", "stream": "stderr"}) for line in [*engine("FooError: x"), WRAPPER]]
    assert evidence(docker) == "FooError: x"


def test_bytes_that_are_no_text_and_braces_that_are_no_json() -> None:
    assert evidence(["{not json", "\x1b[31m\x00\ufffd", *engine("FooError: x")]) == "FooError: x"


def test_options_of_the_caller_go_before_those_of_the_log() -> None:
    lines = ["(APIServer pid=1) INFO 11-22 10:00:00 [utils.py:1] non-default args: {'model': 'm', 'port': 8000}",
             "OSError: [Errno 98] Address already in use"]  # fmt: skip
    assert _labels(diagnose(lines)) == ["Start without --port"]
    assert _labels(diagnose(lines, options={})) == []


def _labels(found: Diagnosis | None) -> list[str]:
    assert found is not None
    return [fix.label for fix in found.fixes]


READY = "INFO:     Application startup complete."
STOP = "(APIServer pid=1) INFO 11-22 10:45:48 [launcher.py:254] [shutdown] API server: shutdown triggered"
DEAD = "(APIServer pid=1) ERROR 11-22 10:45:48 [async_llm.py:906] EngineDeadError: EngineCore encountered an issue."


def test_what_follows_from_a_stop_is_no_crash() -> None:
    assert diagnose([READY, STOP, *engine("FooError: torn down"), DEAD]) is None


def test_a_crash_whose_reason_is_printed_after_the_shutdown_began() -> None:
    assert evidence([READY, DEAD, STOP, *engine("FooError: the cause")]) == "FooError: the cause"


def test_lines_that_only_warn_of_an_end_are_none() -> None:
    warning = (
        "(EngineCore pid=1) WARNING 11-22 10:00:00 [x.py:1] CUDA error: out of memory is likely, std::bad_alloc too"
    )
    assert diagnose([warning]) is None
    assert diagnose([READY, warning]) is None
