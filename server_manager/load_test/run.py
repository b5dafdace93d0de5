"""A load test as it is kept and shown: a run has one row per model, a row one level per concurrency or request rate.

All of it is immutable; ``live_run.py`` holds the one that is going on. Times of day are Unix times in seconds. What is
not known is ``None``, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from server_manager.diagnosis import Diagnosis
from server_manager.load_test.settings import LoadSettings
from server_manager.phrases import Phrase


class LoadState(StrEnum):
    """Of a run, a row and a level."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    """By a person."""
    INTERRUPTED = "interrupted"
    """The app ended in the middle of it. A ladder goes on when the app is back."""


OVER_STATES = frozenset({LoadState.DONE, LoadState.FAILED, LoadState.STOPPED, LoadState.INTERRUPTED})


class RunKind(StrEnum):
    """What a run is for."""

    TEST = "test"
    SLA = "sla"
    """Levels are found on the way: the highest concurrency within a limit is looked for."""
    LADDER = "ladder"
    """Several models, one after the other."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something did not work, in words for a person; by its code and facts a page can say it in other languages."""

    message: str
    next_step: str = ""
    code: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Note:
    """What is to be known of a level whose figures count all the same. ``text`` is English."""

    code: str
    text: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The figures of one level, as ``vllm bench serve`` computed them; percentiles are over its requests."""

    completed: int
    failed: int
    duration_s: float
    request_throughput: float
    """Requests per second; the others are tokens per second."""
    output_throughput: float
    total_token_throughput: float
    total_input_tokens: int
    total_output_tokens: int
    request_goodput: float | None = None
    """Requests per second that kept the limits; ``None`` where none were given."""
    max_output_tokens_per_s: float | None = None
    max_concurrent_requests: int | None = None
    """The most requests in any one second; two that share a second without overlapping count as two."""
    mean_ttft_ms: float | None = None
    p50_ttft_ms: float | None = None
    p90_ttft_ms: float | None = None
    p99_ttft_ms: float | None = None
    mean_tpot_ms: float | None = None
    p50_tpot_ms: float | None = None
    p90_tpot_ms: float | None = None
    p99_tpot_ms: float | None = None
    mean_itl_ms: float | None = None
    p50_itl_ms: float | None = None
    p90_itl_ms: float | None = None
    p99_itl_ms: float | None = None
    mean_e2el_ms: float | None = None
    p50_e2el_ms: float | None = None
    p90_e2el_ms: float | None = None
    p99_e2el_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many requests had their first token between one edge and the next."""

    edges_ms: tuple[float, ...]
    """One more than ``counts``."""
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Samples:
    """What was seen once a second meanwhile, as columns of one length."""

    t: tuple[float, ...] = ()
    """Seconds since the level began."""
    gpu_utilization: tuple[float | None, ...] = ()
    """Per cent, the mean of the GPUs that the server uses."""
    gpu_memory_bytes: tuple[int | None, ...] = ()
    """Of the server, on all of its GPUs."""
    rss_bytes: tuple[int | None, ...] = ()
    """Of the server, in the machine's memory."""
    kv_cache_usage: tuple[float | None, ...] = ()
    """0 to 1."""
    num_requests_running: tuple[int | None, ...] = ()
    num_requests_waiting: tuple[int | None, ...] = ()
    output_tokens_per_s: tuple[float | None, ...] = ()
    """Since the sample before."""


@dataclass(frozen=True, slots=True)
class LevelProgress:
    """How far a level is."""

    phase: Literal["starting", "warm-up", "running"]
    """``starting``: the generator imports vLLM and makes its prompts, some ten seconds."""
    done: int = 0
    total: int = 0
    """Requests."""


@dataclass(frozen=True, slots=True)
class Level:
    """One load that is put on a server: so many requests at a time, or so many per second."""

    label: str
    """``8``, ``2/s`` or ``inf`` (all at once)."""
    concurrency: int | None
    request_rate: float | None
    """Per second; ``None`` for a concurrency, and for all at once."""
    num_prompts: int
    seed: int
    """Each level has its own, so that no prompt of another one is in the prefix cache."""
    state: LoadState = LoadState.QUEUED
    began_at: float | None = None
    """When its requests began (after the warm-up)."""
    progress: LevelProgress | None = None
    command: str = ""
    """The ``vllm bench serve`` line that was run, for a shell; the key as ``$OPENAI_API_KEY``."""
    metrics: Metrics | None = None
    error: Failure | None = None
    warnings: tuple[Note, ...] = ()
    ttft_histogram: Histogram | None = None
    samples: Samples | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One model of a run."""

    model: str
    """The server's name."""
    state: LoadState = LoadState.QUEUED
    attached: bool = False
    was: Literal["ready", "started", "woken"] | None = None
    """How it came to be up."""
    load_s: float | None = None
    """How long the start or the wake took; of a server that was up, ``None``."""
    gpu_bytes: int | None = None
    """What it held before the first level."""
    rss_bytes: int | None = None
    kv_cache_tokens: int | None = None
    max_model_len: int | None = None
    serve_command: str = ""
    tokenizer: str = ""
    """What the generator counted tokens with."""
    error: Failure | None = None
    diagnosis: Diagnosis | None = None
    """Of a server that did not start, or died."""
    progress: Phrase | None = None
    """What it is doing now: ``load_waiting``, ``load_starting``, ``load_waking``, ``load_preparing`` or
    ``load_measuring``."""
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True, slots=True)
class Environment:
    """What the figures were measured on."""

    vllm_version: str | None = None
    gpus: tuple[str, ...] = ()
    serve_command: tuple[str, ...] = ()
    """By row; empty where somebody else started the server."""
    app_version: str | None = None


@dataclass(frozen=True, slots=True)
class SlaTry:
    """One level of an SLA search."""

    concurrency: int
    p99_ttft_ms: float | None
    """``None`` where no request succeeded."""
    ok: bool


@dataclass(frozen=True, slots=True)
class SlaResult:
    """What an SLA search has found so far."""

    ttft_p99_ms: float
    """The limit."""
    highest: int | None = None
    """The highest concurrency that kept it; ``None`` where not even one request at a time did."""
    too_high: int | None = None
    """The lowest that did not; ``None`` where none was found up to the limit of the search."""
    tried: tuple[SlaTry, ...] = ()
    """In the order in which they were measured."""
    words: str = ""
    """The outcome as an English sentence; empty while the search goes on."""


@dataclass(frozen=True, slots=True)
class LoadRun:
    """One load test."""

    id: str
    """Fit for a path and a URL; later ones sort behind earlier ones."""
    name: str
    kind: RunKind
    created_at: float
    settings: LoadSettings
    state: LoadState = LoadState.QUEUED
    started_at: float | None = None
    ended_at: float | None = None
    revision: int = 0
    """Grows with each change."""
    environment: Environment = Environment()
    error: Failure | None = None
    rows: tuple[Row, ...] = ()
    sla: SlaResult | None = None
    stop_asked: bool = False
    """Whether a person has asked for its end: such a one does not go on after a restart of the app."""
    found: Mapping[str, Literal["ready", "asleep"]] | None = None
    """Servers that were up when a ladder began: they are left so."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is going to happen to it by itself."""
        return self.state in OVER_STATES


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in the list."""

    id: str
    name: str
    kind: RunKind
    state: LoadState
    created_at: float
    started_at: float | None
    ended_at: float | None
    preset: str
    models: tuple[str, ...]
    levels: tuple[str, ...]
    """Labels of the first row's."""
    levels_done: int
    levels_total: int
    best_output_throughput: float | None
    """Tokens per second of the best level of all."""
    best_p99_ttft_ms: float | None
    """The lowest of all levels."""
    revision: int
    position: int | None = None
    """How many runs come first; ``None`` where it does not wait."""


def summary_of(run: LoadRun, position: int | None = None) -> RunSummary:
    """What the list shows of a run."""
    levels = [level for row in run.rows for level in row.levels]
    figures = [level.metrics for level in levels if level.metrics is not None and level.metrics.completed]
    ttfts = [found.p99_ttft_ms for found in figures if found.p99_ttft_ms is not None]
    return RunSummary(
        run.id,
        run.name,
        run.kind,
        run.state,
        run.created_at,
        run.started_at,
        run.ended_at,
        run.settings.preset,
        tuple(row.model for row in run.rows),
        tuple(level.label for level in run.rows[0].levels) if run.rows else (),
        sum(level.state is LoadState.DONE for level in levels),
        len(levels),
        max((found.output_throughput for found in figures), default=None),
        min(ttfts, default=None),
        run.revision,
        position,
    )
