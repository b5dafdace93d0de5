"""Which line of a log says why. The recorded failures are tried in ``test_server_life`` as a user meets them."""

from __future__ import annotations

import pytest
from processes import VLLM_LOGS

from server_manager.log_file import split_lines
from server_manager.root_cause import root_cause


@pytest.mark.parametrize("log", sorted(VLLM_LOGS.glob("stop_*.log")), ids=lambda path: path.stem)
def test_a_killed_server_has_no_cause(log: object) -> None:
    assert root_cause(split_lines(log.read_bytes())) is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("log", sorted(VLLM_LOGS.glob("ok_*.log")), ids=lambda path: path.stem)
def test_a_good_start_has_no_cause(log: object) -> None:
    assert root_cause(split_lines(log.read_bytes())) is None  # type: ignore[attr-defined]


def test_first_of_the_engine_goes_before_the_last_of_all() -> None:
    lines = [
        "OSError: early and handled",
        "(Worker_TP0 pid=3) ERROR 11-22 10:45:47 [x.py:1] ValueError: the cause",
        "(Worker_TP1 pid=4) ERROR 11-22 10:45:48 [x.py:1] RuntimeError: what followed",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    assert root_cause(lines) == "ValueError: the cause"
    assert root_cause(lines[:1]) == "OSError: early and handled"
    assert root_cause([*lines, "vllm: error: unrecognized arguments: --x"]) == "unrecognized arguments: --x"


def test_no_lines_no_cause() -> None:
    assert root_cause([]) is None
    assert root_cause(["INFO all is well", "  ValueError: indented: a part of something else"]) is None


def test_a_very_long_cause_is_cut() -> None:
    cause = root_cause(["ValueError: " + "x" * 5000])
    assert cause is not None
    assert len(cause) == 600
