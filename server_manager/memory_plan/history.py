"""What starts and sleeps on this machine really took, in bytes and seconds: what predictions learn from.

One JSON file in the state folder, like that of the start times. It only ever serves estimates: whatever is wrong with
it (unreadable, a full disk) costs the estimate and nothing else.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from server_manager.estimate_file import read_entries, write_entries
from server_manager.memory_plan.decision import Decision
from server_manager.memory_plan.measured import (
    MAX_RUNS,
    Comparison,
    Entry,
    Figures,
    Measure,
    entry_from_json,
    entry_to_json,
)
from server_manager.memory_plan.need import Learned, estimated_residue
from server_manager.start_subject import StartSubject, start_subject
from server_manager.telemetry.base import DeviceSnapshot

MAX_SUBJECTS = 200
_PLANNED = frozenset(
    {
        "gpu-memory-utilization", "device-memory-utilization", "kv-cache-memory-bytes", "device-ids",
        "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER",
    }
)  # fmt: skip
"""Differ from start to start, and change only the cache and the place."""
_DECIDE_WEIGHTS = (
    "dtype", "quantization", "tensor-parallel-size", "pipeline-parallel-size", "revision", "hf-overrides",
    "enable-expert-parallel",
)  # fmt: skip
_DECIDE_REST = (
    *_DECIDE_WEIGHTS, "vllm", "max-num-batched-tokens", "max-num-seqs", "enforce-eager", "optimization-level", "O",
    "compilation-config", "enable-lora", "speculative-config", "limit-mm-per-prompt", "mm-processor-kwargs",
)  # fmt: skip
_FACTOR_LEAST, _FACTOR_MOST = 0.5, 2.0
"""So far other models can change the formula's figure."""


def memory_subject(
    model: str,
    options: Mapping[str, object],
    env: Mapping[str, str],
    *,
    gpu_name: str | None,
    tensor_parallel_size: int,
    vllm_python: str,
) -> StartSubject:
    """What two starts have in common whose memory is alike: model, flags, variables, vLLM and the kind of GPU.

    ``gpu_name`` is ``None`` on a machine without one. Flags that the planner sets itself do not count. Reads the name
    of vLLM's folder: a few milliseconds.
    """
    split = {"tensor-parallel-size": tensor_parallel_size} if tensor_parallel_size > 1 else {}
    own = {name: value for name, value in options.items() if name not in _PLANNED and name != "tensor-parallel-size"}
    devices = () if gpu_name is None else (DeviceSnapshot(0, None, gpu_name),)
    subject = start_subject(model, {**own, **split}, env, devices=devices, vllm_python=vllm_python)
    features = {name: value for name, value in subject.features.items() if name not in _PLANNED}
    return replace(subject, features=features, downloads_to=())


class MemoryHistory:
    """The memory of all models. Each call reads the file anew, and may take 20 ms: call it in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    # What is known

    def learned(self, subject: StartSubject) -> Learned:
        """What earlier starts tell of the next one of this subject.

        The same subject's median; else what other flags of the same model do not change; else how far the formula was
        off with other models on such a GPU, by the one for which it was off most to the wrong side.
        """
        entries = [entry for entry in self._load() if entry.subject.device == subject.device and entry.starts]
        model = [entry for entry in entries if entry.subject.model == subject.model]
        same = next((entry for entry in model if entry.subject == subject), None)
        if same is not None:
            return Learned(
                weights_bytes=_median([each.actual.weights_bytes for each in same.starts]),
                overhead_bytes=_median([each.overhead_bytes for each in same.starts]),
                is_same=True,
            )
        weights = [each.actual.weights_bytes for each in _runs(model, subject, _DECIDE_WEIGHTS)]
        rest = [each.overhead_bytes for each in _runs(model, subject, _DECIDE_REST)]
        factors = [factor for entry in entries if (factor := _factor(entry)) is not None]
        return Learned(
            weights_bytes=_median(weights),
            overhead_bytes=max(rest, default=None),
            overhead_factor=min(max(max(factors), _FACTOR_LEAST), _FACTOR_MOST) if factors else None,
        )

    def typical(self, subject: StartSubject, measure: Measure) -> float | None:
        """The median of the last ones: of this subject, else of the same model with other flags; ``None``: never."""
        entries = [entry for entry in self._load() if entry.subject.device == subject.device]
        same = [entry for entry in entries if entry.subject == subject]
        model = [entry for entry in entries if entry.subject.model == subject.model]
        for found in (same, model):
            if values := [value for entry in found for value in entry.measures.get(measure, ())]:
                return float(median(values))
        return None

    def residue_bytes(self, subject: StartSubject, overhead_bytes: int) -> int:
        """What a server will keep of each GPU while it sleeps: measured, else estimated from its overhead."""
        measured = self.typical(subject, Measure.RESIDUE_BYTES)
        return estimated_residue(overhead_bytes) if measured is None else round(measured)

    def predicted_and_actual(self, subject: StartSubject) -> tuple[Comparison, ...]:
        """The last starts of this subject, what was predicted beside what came; the newest last."""
        return next((entry.starts for entry in self._load() if entry.subject == subject), ())

    # What is learned

    def record_start(
        self, subject: StartSubject, decision: Decision, actual: Figures, *, at: float | None = None
    ) -> None:
        """Notes what a server that is ready holds, beside what the decision to start it predicted."""
        need, budget = decision.need, decision.budget_bytes
        run = Comparison(
            at=time.time() if at is None else at,
            predicted=predicted_figures(decision),
            actual=actual,
            formula_overhead_bytes=need.formula_overhead_bytes if need else 0,
            budget_bytes=budget + need.context_bytes if need and budget else 0,
        )
        self._change(subject, lambda entry: replace(entry, starts=(*entry.starts, run)[-MAX_RUNS:]))

    def record(self, subject: StartSubject, measure: Measure, value: float) -> None:
        """Notes one measurement, in the unit that ``Measure`` says; what is no amount is left out."""
        if not (math.isfinite(value) and value >= 0):
            return

        def add(entry: Entry) -> Entry:
            values = (*entry.measures.get(measure, ()), float(value))[-MAX_RUNS:]
            return replace(entry, measures={**entry.measures, measure: values})

        self._change(subject, add)

    def _change(self, subject: StartSubject, change: Callable[[Entry], Entry]) -> None:
        with self._lock:
            entries = self._load()
            old = next((entry for entry in entries if entry.subject == subject), Entry(subject))
            entries = [entry for entry in entries if entry.subject != subject]
            kept = [*entries, change(old)][-MAX_SUBJECTS:]
            write_entries(self._path, "models", [entry_to_json(entry) for entry in kept])

    def _load(self) -> list[Entry]:
        """The subjects by last use, the latest last; those that make no sense are left out."""
        return read_entries(self._path, "models", entry_from_json)


def predicted_figures(decision: Decision) -> Figures | None:
    """What a start was planned to hold of each GPU; ``None`` where nothing was planned."""
    need = decision.need
    if need is None or need.weights_bytes is None or not decision.will_hold:
        return None
    cache = max(decision.will_hold.values()) - need.weights_bytes - need.overhead_bytes
    return Figures(need.weights_bytes, max(0, cache), need.overhead_bytes)


def _runs(model: Sequence[Entry], subject: StartSubject, flags: Sequence[str]) -> list[Comparison]:
    """The starts of the same model in which these flags were as they are now."""
    return [
        run
        for entry in model
        if all(entry.subject.features.get(name) == subject.features.get(name) for name in flags)
        for run in entry.starts
    ]


def _factor(entry: Entry) -> float | None:
    """How much of the formula's figure this model really took beside weights and cache."""
    ratios = [each.overhead_bytes / each.formula_overhead_bytes for each in entry.starts if each.formula_overhead_bytes]
    return float(median(ratios)) if ratios else None


def _median(values: Sequence[int]) -> int | None:
    return int(median(values)) if values else None
