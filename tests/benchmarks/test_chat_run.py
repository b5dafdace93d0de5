"""The chat benchmark as it is run: engine, app, naive page and clients as processes, with very little to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_way_brings_whole_answers_and_the_results_are_written(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "benchmarks.chat", "--levels", "1,3", "--rounds", "1", "--slow-rounds", "1"]
    argv += ["--tokens", "8", "--turn-rounds", "0", "--idle-seconds", "0.2", "--out", str(tmp_path), "--name", "tiny"]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=110)
    results = json.loads((tmp_path / "tiny.json").read_text(encoding="utf-8"))
    counted = {(one["variant"], one["chats"]): one["tokens"] for one in results["rounds"]}
    assert counted == {(way, chats): 8 * chats for way in ("direct", "page", "naive") for chats in (1, 3)}
    assert all(one["first_tokens_s"] and one["frames"] for one in results["rounds"])
    frames = {(one["variant"], one["chats"]): one["frames"] for one in results["rounds"]}
    assert frames["naive", 3] > frames["page", 3], "the naive page is to send a message for each token"
    assert "| 3 | **vLLM Deck's page** |" in (tmp_path / "tiny.md").read_text(encoding="utf-8")
