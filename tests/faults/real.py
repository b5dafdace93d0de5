"""The same world with the real vLLM on a CPU: SmolLM2 as three processes, and a small Qwen2 as one.

Both have the routes of vLLM's sleep mode, which answer on a CPU too: requests wait, and no memory moves.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from real.conftest import SMOLLM2, RealPlace, make_qwen2

from faults.sleepers import SleepyWorld
from server_manager.bundled import ensure_converted


def real_world(folder: Path, patience: float) -> SleepyWorld:
    """Raises ``ServerManagerError`` or ``CalledProcessError`` where the models cannot be made."""
    place = RealPlace(folder)
    cache = folder / "models-cache"
    smollm2 = asyncio.run(ensure_converted(f"HuggingFaceTB/{SMOLLM2}", cache, sys.executable, print))
    qwen2 = folder / "tiny-qwen2"
    make_qwen2(smollm2, qwen2)
    common = "max-model-len: 1024\nkv-cache-memory-bytes: 128M\nshutdown-timeout: 2\n"
    (place.models_dir / "smollm2.yaml").write_text(
        f"model: {smollm2}\ndistributed-executor-backend: mp\n{common}", encoding="utf-8"
    )
    (place.models_dir / "tiny-qwen2.yaml").write_text(f"model: {qwen2}\n{common}", encoding="utf-8")
    for name in ("smollm2", "tiny-qwen2"):
        place.set_variables(name, VLLM_SERVER_DEV_MODE="1")
    return SleepyWorld(place, ["smollm2", "tiny-qwen2"], patience, start_seconds=120, shm="")
