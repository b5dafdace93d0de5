"""The benchmark of the model ladder: what it makes of its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.ladder import FIGURES, difference, hide_folders, model_file, summary


def entry(index: int, product: float, hand: float) -> dict[str, Any]:
    both = {who: dict.fromkeys(FIGURES, value) for who, value in (("product", product), ("hand", hand))}
    return {"model": "small", "round": index, "level": "8", "line": "vllm bench serve", **both}


def ladder() -> dict[str, Any]:
    metrics = dict.fromkeys((*FIGURES, "p50_tpot_ms"), 12.0)
    row = {"model": "small", "load_s": 3.21, "kv_cache_tokens": 23_296, "levels": [{"label": "8", "metrics": metrics}]}
    return {"rows": [row]}


def test_the_difference_is_that_of_the_medians_in_per_cent_of_what_came_by_hand() -> None:
    rounds = [entry(0, 90, 100), entry(1, 102, 100), entry(2, 500, 100)]
    assert difference(rounds, "mean_ttft_ms") == pytest.approx(2.0)
    text = summary(ladder(), rounds)
    assert "| small | 3.2 | 23,296 | 8 |" in text
    assert "102 / 100 (+2.0)" in text
    assert f"Within 3 %: {len(FIGURES)} of {len(FIGURES)} figures" in text
    assert f"Within 3 %: 0 of {len(FIGURES)} figures" in summary(ladder(), [entry(0, 104, 100)])


def test_a_model_is_a_folder_or_a_name_and_is_served_without_prefix_cache(tmp_path: Path) -> None:
    weights = tmp_path / "Qwen2-mine"
    weights.mkdir()
    assert model_file(str(weights), tmp_path, {"max-model-len": "512"}, ["A=1"]) == "Qwen2-mine"
    assert (tmp_path / "Qwen2-mine.yaml").read_text().splitlines()[1:] == [
        'served-model-name: "Qwen2-mine"',
        "enable-prefix-caching: false",
        "max-model-len: 512",
    ]
    assert (tmp_path / "Qwen2-mine.env").read_text() == "A=1\n"
    assert model_file("SmolLM2-135M-Instruct", tmp_path, {"max-model-len": "512"}, []) == "SmolLM2-135M-Instruct"
    text = (tmp_path / "SmolLM2-135M-Instruct.yaml").read_text()
    assert "max-model-len: 512" in text
    assert "2048" not in text

    (tmp_path / "run.md").write_text(f"vllm serve {weights}")
    hide_folders(tmp_path, {str(tmp_path): "MODELS"})
    assert (tmp_path / "run.md").read_text() == "vllm serve MODELS/Qwen2-mine"
