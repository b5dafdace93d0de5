"""A load test as a document to take away: JSON of everything, CSV and Markdown of its figures."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import Iterator
from dataclasses import fields

import msgspec

from server_manager.load_test.run import Level, LoadRun, Metrics, Row
from server_manager.units import gib

FORMAT, VERSION = "vllm-deck-load-test", 1
_FIGURES = tuple(field.name for field in fields(Metrics))
_TABLE = (
    ("requests/s", "request_throughput", 2),
    ("output tok/s", "output_throughput", 1),
    ("TTFT p50 ms", "p50_ttft_ms", 1),
    ("TTFT p99 ms", "p99_ttft_ms", 1),
    ("TPOT p50 ms", "p50_tpot_ms", 2),
    ("TPOT p99 ms", "p99_tpot_ms", 2),
    ("ITL p99 ms", "p99_itl_ms", 2),
    ("E2E p50 ms", "p50_e2el_ms", 1),
    ("E2E p99 ms", "p99_e2el_ms", 1),
    ("failed", "failed", 0),
)


def as_json(run: LoadRun) -> str:
    """Everything, samples and histograms too. Times are Unix seconds."""
    document = {"format": FORMAT, "version": VERSION, "exported": round(time.time(), 3), **msgspec.to_builtins(run)}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def as_csv(run: LoadRun) -> str:
    """A line for each level; what was not measured is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    head = ("run", "model", "level", "concurrency", "request_rate", "num_prompts", "state")
    table.writerow((*head, "load_s", "gpu_bytes", "kv_cache_tokens", *_FIGURES))
    for row, level in _levels(run):
        known = (run.name, row.model, level.label, level.concurrency, level.request_rate, level.num_prompts)
        figures = tuple(getattr(level.metrics, name) if level.metrics else None for name in _FIGURES)
        table.writerow((*known, level.state, row.load_s, row.gpu_bytes, row.kv_cache_tokens, *figures))
    return text.getvalue()


def as_markdown(run: LoadRun) -> str:
    """The figures with the method and the lines that repeat them."""
    parts = [f"# {_plain(run.name)}", _method(run)]
    if run.sla is not None and run.sla.words:
        parts.append(f"**{run.sla.words}**")
    if run.error is not None:
        parts.append(f"**{run.error.message}** {run.error.next_step}")
    for row in run.rows:
        parts += [f"## {row.model}", *_facts(row)]
        measured = [level for level in row.levels if level.metrics is not None]
        if measured:
            head = ["level", *(title for title, _, _ in _TABLE)]
            lines = [f"| {' | '.join(head)} |", f"|{'---:|' * len(head)}"]
            parts.append("\n".join([*lines, *(_line(level) for level in measured)]))
        for level in row.levels:
            notes = [note.text for note in level.warnings] + ([level.error.message] if level.error else [])
            parts += [f"- {level.label}: {_plain(note)}" for note in notes]
        if commands := [level.command for level in row.levels if level.command]:
            parts.append("```sh\n" + "\n".join(commands) + "\n```")
    return "\n\n".join(parts) + "\n"


def file_name(run: LoadRun, ending: str) -> str:
    """Of the download: the run's name, as far as file names may have it, and its day."""
    stem = re.sub(r"[^\w.-]+", "-", run.name).strip("-.")[:80] or "load-test"
    return f"{stem}-{time.strftime('%Y%m%d-%H%M', time.localtime(run.created_at))}.{ending}"


def method_words(run: LoadRun) -> str:
    """What was measured and how, in a line."""
    settings, where = run.settings, run.environment
    if settings.dataset == "random":
        ratio = f" ± {100 * settings.range_ratio:g} %" if settings.range_ratio else ""
        load = f"random prompts of {settings.input_len} tokens, answers of {settings.output_len}{ratio}"
    else:
        load = f"dataset {settings.dataset}"
    on = ", ".join(f"{where.gpus.count(name)} × {name}" for name in dict.fromkeys(where.gpus))
    vllm = f"vLLM {where.vllm_version}" if where.vllm_version else ""
    return ", ".join(
        filter(None, ("vllm bench serve", load, f"at least {settings.num_prompts} requests per level", vllm, on))
    )


def _method(run: LoadRun) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started_at or run.created_at))
    return f"{method_words(run)}. Straight at the server, streamed. {when}, {run.state}."


def _facts(row: Row) -> Iterator[str]:
    known = [
        f"loaded in {row.load_s:.1f} s" if row.load_s is not None else "",
        f"{gib(row.gpu_bytes)} of GPU memory" if row.gpu_bytes else "",
        f"KV cache for {row.kv_cache_tokens:,} tokens" if row.kv_cache_tokens else "",
    ]
    if any(known):
        yield f"{', '.join(filter(None, known))}."
    if row.error is not None:
        yield f"**{_plain(row.error.message)}** {_plain(row.error.next_step)}"
    if row.serve_command:
        yield f"```sh\n{row.serve_command}\n```"


def _line(level: Level) -> str:
    figures = (getattr(level.metrics, name) for _, name, _ in _TABLE)
    texts = (
        "–" if value is None else f"{value:.{digits}f}" for value, (_, _, digits) in zip(figures, _TABLE, strict=True)
    )
    return f"| {' | '.join((level.label, *texts))} |"


def _levels(run: LoadRun) -> Iterator[tuple[Row, Level]]:
    for row in run.rows:
        for level in row.levels:
            yield row, level


def _plain(text: str) -> str:
    """On one line, without what Markdown would take for its own."""
    return re.sub(r"([*_`<>|\[\]#])", r"\\\1", " ".join(text.split()))
