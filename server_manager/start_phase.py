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
    DOWNLOAD = "download"
    """Of the weights, by vLLM's worker. vLLM logs nothing of it: see ``download_watch``."""
    WEIGHTS = "weights"
    COMPILE = "compile"
    KV_CACHE = "kv_cache"
    CUDA_GRAPHS = "cuda_graphs"
    SERVING = "serving"
    FIRST_SLEEP = "first_sleep"
    """Ours, of a server that can sleep: the first time pins host memory, which takes 16 s with a 7B."""


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
            r"Time spent downloading weights|Filesystem type for checkpoints|"
            r"[Ll]oading [^:]+:\s+\d+% Completed \| (?P<detail>\d+/\d+)|"
            r"Loading weights took (?P<took>[\d.]+ s)|Model loading took (?P<size>[\d.]+ GiB)"
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
            r"Profiling CUDA graph memory: |Available KV cache memory: (?P<detail>[\d.]+ GiB)|"
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


_LOAD_BEGINS = re.compile(r"Starting to load model |Loading model from scratch")
_COMPILES = re.compile(r"Initializing a V1 LLM engine .*enforce_eager=False(?!.*CompilationMode\.NONE)")
_LOADED = re.compile(r"Model loading took [\d.]+ GiB")


class StartProgress:
    """How far a start has come, from its log's lines. Never goes back: vLLM's processes log side by side."""

    def __init__(self, *, may_download: bool = False) -> None:
        """``may_download``: the model is a hub's, so that loading may begin with a download."""
        self.reached = PhaseReached(StartPhase.IMPORT, "")
        self.load_begun = False
        """Whether the log says that loading begins: before a hub's model is read it may have to be downloaded."""
        self._may_download = may_download
        self._compiles = False

    @property
    def before_weights(self) -> bool:
        """Whether nothing of the weights has been read yet, as far as the log tells."""
        return self._rank(self.reached.phase) < self._rank(StartPhase.WEIGHTS)

    def take(self, lines: Iterable[str]) -> bool:
        """Takes further lines; whether they tell anything new."""
        before = self.reached
        for line in lines:
            self._compiles = self._compiles or bool(_COMPILES.search(line))
            reached = phase_of(line)
            if reached is None:
                continue
            if _LOAD_BEGINS.search(line):
                self.load_begun = True
                if self._may_download:
                    continue  # it is the first line about the weights themselves that ends the download
            elif self._compiles and _LOADED.search(line):
                # The profiling run that follows compiles; the first line about that comes 6 s later.
                reached = PhaseReached(StartPhase.COMPILE, "")
            self._advance(reached)
        return self.reached != before

    def first_sleep(self) -> None:
        """It serves, and is put to sleep for the first time."""
        self._advance(PhaseReached(StartPhase.FIRST_SLEEP, ""))

    def downloading(self, detail: str) -> None:
        """Weights are being downloaded: counts only between the begin of loading and the first of the weights."""
        if self.load_begun and self.before_weights:
            self._advance(PhaseReached(StartPhase.DOWNLOAD, detail))

    def _advance(self, reached: PhaseReached) -> None:
        if self._rank(reached.phase) >= self._rank(self.reached.phase):
            self.reached = reached

    @staticmethod
    def _rank(phase: StartPhase) -> int:
        return ORDER.index(phase)
