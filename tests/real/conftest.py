"""The real vLLM: no fake between the page and the tokens."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser.chromium import browser
from deck_app import Place

__all__ = ["SMOLLM2", "RealPlace", "browser", "make_qwen2"]

SMOLLM2 = "SmolLM2-135M-Instruct"


class RealPlace(Place):
    """Folders of an app that runs the vLLM of this environment."""

    @property
    def env(self) -> dict[str, str]:
        kept = {key: value for key, value in super().env.items() if key != "DECK_VLLM_PYTHON"}
        # Nobody is to be asked for anything: what the bundled model needs is here. One thread: several wait for each
        # other in busy loops, which takes ten times as long where other tests use the cores too.
        return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}

    @property
    def converted(self) -> Path:
        """Where the app keeps the bundled model."""
        return self.state_dir / "cache" / "models" / SMOLLM2

    @property
    def model_infos(self) -> Path:
        """What vLLM keeps of each architecture, to find which it imports itself once more."""
        return self.home / ".cache" / "vllm" / "modelinfos"


@pytest.fixture(scope="session")
def first_place() -> list[RealPlace]:
    """Filled by the first test, whose app converts the bundled model: the others need not wait for that again, nor for
    what vLLM finds out at its first start."""
    return []


def shared_memory_of_vllm() -> set[str]:
    """Names in /dev/shm, without those that the fake vLLM of other tests may be using meanwhile.

    Python's own are ``psm_`` and eight hexadecimal digits.
    """
    return {name for name in os.listdir("/dev/shm") if not re.match(r"psm_([0-9a-f]{8}-|fake)", name)}


@pytest.fixture
def real_place(tmp_path: Path, first_place: list[RealPlace]) -> Iterator[RealPlace]:
    """An empty home, after the first test with what that has prepared. Skipped where there is no vLLM, except in CI,
    where that is a failure."""
    if importlib.util.find_spec("vllm") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("vLLM is not installed in this environment.")
    found = RealPlace(tmp_path)
    for first in first_place:
        for there, here in ((first.converted, found.converted), (first.model_infos, found.model_infos)):
            shutil.copytree(there, here, copy_function=os.link)
    shared_memory = shared_memory_of_vllm()
    yield found
    if not first_place and found.converted.is_dir() and found.model_infos.is_dir():
        first_place.append(found)
    found.close()
    left = shared_memory_of_vllm() - shared_memory
    assert not left, f"left in /dev/shm: {left}"


def make_qwen2(tokenizer_dir: Path, out: Path) -> None:
    """A second model of another family, with random weights."""
    script = Path(__file__).with_name("make_qwen2.py")
    subprocess.run([sys.executable, str(script), str(tokenizer_dir), str(out)], check=True, capture_output=True)
