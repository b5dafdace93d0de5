"""GPUs that only a folder knows of: fakes of vLLM write down there what they hold, and a fake ``pynvml`` reads it.

The folder's ``gpus.json`` is a list of ``{"uuid": …, "total": bytes}``; beside it lies, for each process that holds
memory, a file named by its pid with ``{"index": bytes}`` and, as "start", its start time in ticks: pids are given away
again. What a dead process held is free, as with the real driver.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

GIB = 1 << 30
WEIGHTS_GIB = 4
"""Of a pretended model: two of them do not fit into 80 GiB with a cache of the usual size, and asleep they find room
in the memory of a small machine that runs other tests beside."""
SHAPE = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
CONTEXT_BYTES = GIB // 2
"""Used by nobody in particular, as the driver does."""
HIDES = "hides-processes"

PYNVML = """\
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {telemetry!r}]
from fake_gpu import CONTEXT_BYTES, held, gpus, hides_processes
from fake_pynvml import NO_PERMISSION, FakeGpu, FakePynvml, NVMLError

FOLDER = Path({folder!r})

class Pynvml(FakePynvml):
    def _gpu(self, call, handle):
        found = super()._gpu(call, handle)
        index = self.gpus.index(found)
        found.compute = list(held(FOLDER, index).items())
        found.used = CONTEXT_BYTES + sum(size for _, size in found.compute)
        if hides_processes(FOLDER) and call.endswith("RunningProcesses"):
            raise NVMLError(NO_PERMISSION)
        return found

sys.modules[__name__] = Pynvml(*(FakeGpu(uuid=gpu["uuid"], total=gpu["total"]) for gpu in gpus(FOLDER)))
"""


def make_gpus(folder: Path, *total_gib: float, hide_processes: bool = False) -> dict[str, str]:
    """A machine with GPUs of so many GiB; the environment for an app that is to find them.

    ``hide_processes``: as in a container, the driver does not say who holds the memory.
    """
    folder.mkdir(parents=True)
    listed = [{"uuid": f"GPU-{index}", "total": int(gib * GIB)} for index, gib in enumerate(total_gib)]
    (folder / "gpus.json").write_text(json.dumps(listed))
    if hide_processes:
        (folder / HIDES).touch()
    tests = Path(__file__).resolve().parent
    text = PYNVML.format(tests=str(tests), telemetry=str(tests / "telemetry"), folder=str(folder))
    (folder / "pynvml.py").write_text(text)
    return environment(folder)


def environment(folder: Path) -> dict[str, str]:
    """Of an app that is to find the GPUs of this folder."""
    return {"PYTHONPATH": str(folder), "FAKE_GPU_DIR": str(folder)}


def write_weights(folder: Path) -> None:
    """What the planner reads of a model's files; there are no weights."""
    (folder / "config.json").write_text(json.dumps(SHAPE))
    index = {"metadata": {"total_size": WEIGHTS_GIB * GIB}, "weight_map": {}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def gpus(folder: Path) -> Sequence[Mapping[str, object]]:
    listed: list[dict[str, object]] = json.loads((folder / "gpus.json").read_text())
    return listed


def hides_processes(folder: Path) -> bool:
    return (folder / HIDES).exists()


def held(folder: Path, index: int) -> dict[int, int]:
    """Bytes by pid of the living processes that hold memory of this GPU."""
    found = {}
    for path in folder.iterdir():
        if path.name.isdigit() and (start := _start_of(int(path.name))):
            try:
                written = json.loads(path.read_text())
            except (OSError, ValueError):  # just being written
                continue
            if written["start"] == start and (size := written.get(str(index), 0)):
                found[int(path.name)] = size
    return found


def free(folder: Path, index: int, *, but: int = 0) -> int:
    """What is left, not counting what the process ``but`` holds."""
    others = sum(size for pid, size in held(folder, index).items() if pid != but)
    return int(str(gpus(folder)[index]["total"])) - CONTEXT_BYTES - others


def hold(folder: Path, pid: int, sizes: Mapping[int, int]) -> None:
    """From now on the process holds so much of each GPU."""
    path = folder / f"{pid}.new"
    path.write_text(json.dumps({"start": _start_of(pid), **{str(index): size for index, size in sizes.items()}}))
    path.replace(folder / str(pid))


def visible(folder: Path, count: int) -> list[int]:
    """The indices of the first ``count`` GPUs that CUDA shows to this process."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    uuids = [str(gpu["uuid"]) for gpu in gpus(folder)]
    indices = list(range(len(uuids)))
    if chosen is not None:
        indices = [int(word) if word.isdigit() else uuids.index(word) for word in chosen.split(",") if word]
    return indices[:count]


def _start_of(pid: int) -> str:
    """The start time of a living process, empty where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
