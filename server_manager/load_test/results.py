"""What ``vllm bench serve`` writes: its figures, the distribution of first tokens, and why requests failed.

It exits with 0 even when every request has failed: only ``completed`` and ``failed`` tell.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from server_manager.load_test.run import Failure, Histogram, Level, Metrics, Note

_RENAMED = {"duration_s": "duration"}
_MOST_BINS, _MOST_REASONS, _MOST_WORDS = 24, 3, 200
_REACHED = 0.9
"""The share of a request rate below which it counts as not reached."""
_REASONS: tuple[tuple[str, str, str], ...] = (
    # What is in the error's last line, what it means, what to do. vLLM notes the bare reason of an HTTP status.
    ("Bad Request", "the server refused them (Bad Request)", "Mostly they are longer than the model's context."),
    ("Unauthorized", "the server wants another API key", "Set DECK_ATTACH_API_KEY to its key and start the app again."),
    ("Forbidden", "the server does not let this key in", "Ask whoever runs it."),
    ("Not Found", "the server has no such model or route", "Choose the other API (chat or completions)."),
    ("Too Many Requests", "the server limits how often it may be asked", "Use a lower load."),
    ("Internal Server Error", "the server made a mistake", "Look at its log."),
    ("Service Unavailable", "the server's engine is dead or it ends", "Look at its log."),
    ("Cannot connect to host", "nothing answers there", "Is the server still up?"),
    ("Connection refused", "nothing answers there", "Is the server still up?"),
    ("Server disconnected", "the server closed the connection", "Look at its log."),
    ("Connection reset", "the server closed the connection", "Look at its log."),
    ("payload is not completed", "the server closed the connection", "Look at its log."),
    ("Too many open files", "the machine allows no more open connections", "Raise `ulimit -n` of the app."),
    ("TimeoutError", "the server did not answer in time", "Use a lower load."),
    ("Never received a valid chunk", "the answers were empty", "Raise output_len, or set ignore_eos."),
)


@dataclass(frozen=True, slots=True)
class Result:
    """A level's result, judged."""

    metrics: Metrics
    histogram: Histogram | None
    warnings: tuple[Note, ...]
    error: Failure | None
    """Where not one request succeeded."""


def read_result(path: Path, level: Level) -> Result:
    """Raises ``FileNotFoundError`` where there is none, ``ValueError`` for anything but a whole result. Blocking."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    try:
        metrics = metrics_of(document)
    except (KeyError, TypeError) as error:
        raise ValueError(f"a figure is missing: {error}") from error
    reasons = failure_reasons(document.get("errors") or ())
    nothing = all_failed(metrics, reasons) if metrics.completed == 0 else None
    warnings = () if nothing else (*_failures(metrics, reasons), *_not_reached(metrics, level))
    return Result(metrics, histogram(_first_tokens_ms(document)), warnings, nothing)


def metrics_of(document: Mapping[str, Any]) -> Metrics:
    """The figures of a result. Raises ``KeyError`` where one that every result has is missing.

    Where nothing was measured (no request succeeded, no second token came) vLLM writes zeros; here it is ``None``.
    """
    found: dict[str, Any] = {}
    for field in fields(Metrics):
        name = _RENAMED.get(field.name, field.name)
        value = document[name] if field.default is not None else document.get(name)
        found[field.name] = value if not isinstance(value, float) or math.isfinite(value) else None
    if not found["completed"]:
        found |= {name: None for name in found if name.endswith("_ms")}
    for kind in ("ttft", "tpot", "itl"):
        if not found[f"mean_{kind}_ms"]:  # one token only, or an answer that did not stream
            found |= {name: None for name in found if name.endswith(f"_{kind}_ms")}
    return Metrics(**found)


def failure_reasons(errors: Sequence[str]) -> list[tuple[str, int]]:
    """Why requests failed and how many, the most frequent first: what an HTTP status or an exception says."""
    return Counter(_last_line(error) for error in errors if error).most_common(_MOST_REASONS)


def all_failed(metrics: Metrics, reasons: Sequence[tuple[str, int]]) -> Failure:
    """Not one request succeeded."""
    why = reasons[0][0] if reasons else ""
    words, step = next(((words, step) for text, words, step in _REASONS if text in why), (why, "Look at its log."))
    return Failure(
        f"All {metrics.failed} requests failed: {words or 'nobody says why'}.",
        step,
        "all_failed",
        {"failed": metrics.failed, "why": why, "words": words},
    )


def histogram(values_ms: Sequence[float]) -> Histogram | None:
    """At most 24 bars; each as wide as the next in milliseconds or, where values differ by far, in proportion."""
    if not values_ms:
        return None
    least, most = min(values_ms), max(values_ms)
    bins = min(_MOST_BINS, max(1, round(2 * math.sqrt(len(values_ms))))) if most > least else 1
    if least > 0 and most / least > 20:
        ratio = (most / least) ** (1 / bins)
        edges = [least * ratio**position for position in range(bins)]
    else:
        width = (most - least) / bins or 1.0
        edges = [least + width * position for position in range(bins)]
    counts = [0] * bins
    for value in values_ms:
        counts[max(0, sum(edge <= value for edge in edges) - 1)] += 1
    last = most if most > least else least + 1.0
    return Histogram(tuple(round(edge, 3) for edge in (*edges, last)), tuple(counts))


def _first_tokens_ms(document: Mapping[str, Any]) -> list[float]:
    """Of the requests that succeeded."""
    ttfts, errors = document.get("ttfts") or (), document.get("errors") or ()
    return [1000 * ttft for ttft, error in zip(ttfts, errors, strict=False) if ttft > 0 and not error]


def _failures(metrics: Metrics, reasons: Sequence[tuple[str, int]]) -> tuple[Note, ...]:
    if not metrics.failed:
        return ()
    total = metrics.completed + metrics.failed
    why = "; ".join(f"{reason} ({count})" for reason, count in reasons) or "nobody says why"
    return (
        Note(
            "requests_failed",
            f"{metrics.failed} of {total} requests failed: {why}.",
            {"failed": metrics.failed, "total": total, "why": why},
        ),
    )


def _not_reached(metrics: Metrics, level: Level) -> tuple[Note, ...]:
    most, wanted, rate = metrics.max_concurrent_requests, level.concurrency, level.request_rate
    if wanted is not None and most is not None and most < wanted:
        return (
            Note(
                "level_not_reached",
                f"There were never more than {most} of {wanted} requests at a time: use more requests.",
                {"most": most, "wanted": wanted},
            ),
        )
    if rate is not None and metrics.request_throughput < _REACHED * rate:
        return (
            Note(
                "rate_not_reached",
                f"{rate:g} requests/s were asked for, {metrics.request_throughput:.2f} were answered: the server did "
                "not keep up, or there were too few requests for this rate.",
                {"wanted": rate, "reached": round(metrics.request_throughput, 3)},
            ),
        )
    return ()


def _last_line(error: str) -> str:
    """What an exception says, without its traceback and the names of its modules."""
    line = next((line for line in reversed(error.strip().splitlines()) if line.strip()), error).strip()
    return (
        line.rsplit(".", 1)[-1][:_MOST_WORDS] if line.startswith("aiohttp.") and ":" not in line else line[:_MOST_WORDS]
    )
