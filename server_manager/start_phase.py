"""The phases of vLLM's start, read from its own log lines.

The lines are those of vLLM 0.25 to 0.32; a version that words one differently only makes a phase be passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class StartPhase(StrEnum):
    """In the order in which they happen."""

    PREPARE = "prepare"
    """Ours, before vLLM is started: checks, the bundled model's conversion."""
    IMPORT = "import"
    CONFIG = "config"
    ENGINE = "engine"
    """vLLM starts its own processes; each imports PyTorch again."""
    WEIGHTS = "weights"
    COMPILE = "compile"
    KV_CACHE = "kv_cache"
    CUDA_GRAPHS = "cuda_graphs"
    SERVING = "serving"


ORDER = tuple(StartPhase)

# "(EngineCore pid=12) INFO 11-22 10:09:42 [model.py:733] text": all of it optional, since raw lines have none of it.
_PREFIX = re.compile(
    r"^(?:\([^()]+? pid=\d+\) )?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
)

_RULES: tuple[tuple[StartPhase, re.Pattern[str]], ...] = (
    (StartPhase.CONFIG, re.compile(r"version (?P<detail>\d\S+)$|non-default args: |Resolved architecture: ")),
    (StartPhase.ENGINE, re.compile(r"Initializing a V1 LLM engine|world_size=\d+ rank=\d+")),
    (
        StartPhase.WEIGHTS,
        re.compile(
            r"Starting to load model |Loading model from scratch|"
            r"Loading (?:safetensors|pt) checkpoint shards:\s+\d+% Completed \| (?P<detail>\d+/\d+)|"
            r"Loading weights took (?P<took>[\d.]+ s)"
        ),
    ),
    (
        StartPhase.COMPILE,
        re.compile(
            r"Warming up model for the compilation|Starting torch\.compile|Dynamo bytecode transform time|"
            r"Compiling a graph for |torch\.compile took (?P<took>[\d.]+ s)|Directly load AOT compilation"
        ),
    ),
    (
        StartPhase.KV_CACHE,
        re.compile(
            r"Available KV cache memory: (?P<detail>[\d.]+ GiB)|"
            r"(?:CPU|GPU) KV cache size: (?P<tokens>[\d,]+ tokens)|(?:Explicitly|Auto) set \("
        ),
    ),
    (StartPhase.CUDA_GRAPHS, re.compile(r"Capturing CUDA graphs.*?\|\s*(?P<detail>\d+/\d+)|Graph capturing finished")),
    (
        StartPhase.SERVING,
        re.compile(r"init engine \(profile, create kv cache|Starting vLLM server on|Application startup complete"),
    ),
)


@dataclass(frozen=True, slots=True)
class PhaseReached:
    """A phase with what its line tells besides: shards "2/4", a size, or nothing."""

    phase: StartPhase
    detail: str


def strip_prefix(line: str) -> str:
    """The line without vLLM's process and logging prefix."""
    return line[_PREFIX.match(line).end() :]  # type: ignore[union-attr]  # every part is optional: always matches


def phase_of(line: str) -> PhaseReached | None:
    """The phase that a log line announces, or ``None`` for the many lines that announce none."""
    text = strip_prefix(line)
    for phase, pattern in _RULES:
        if match := pattern.search(text):
            detail = next((value for value in match.groupdict().values() if value), "")
            return PhaseReached(phase, detail)
    return None


class StartProgress:
    """How far a start has come, from its log's lines. Never goes back: vLLM's processes log side by side."""

    def __init__(self) -> None:
        self.reached = PhaseReached(StartPhase.IMPORT, "")

    def take(self, lines: Iterable[str]) -> bool:
        """Takes further lines; whether they tell anything new."""
        before = self.reached
        for line in lines:
            reached = phase_of(line)
            if reached and ORDER.index(reached.phase) >= ORDER.index(self.reached.phase):
                self.reached = reached
        return self.reached != before
