"""The tables of benchmarks/gateway.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

GOALS = {1: 0.98, 32: 0.95, 128: 0.95}

Row = dict[str, Any]


def speed_lines(rows: Sequence[Row], ways: Sequence[str]) -> list[str]:
    """How fast each way is, and how near to direct."""
    lines = [
        "| streams | way | tok/s | of direct | first token, ms | chunks per token |",
        "|---|---|---|---|---|---|",
    ]
    for streams, way, found in _each(rows, ways):
        ratio = ""
        if way != "direct" and "direct" in ways:
            ratios = [row[way]["tokens_per_second"] / row["direct"]["tokens_per_second"] for row in found]
            goal = f"; goal {GOALS[streams]:.0%}" if way == "gateway" and streams in GOALS else ""
            ratio = f"**{statistics.median(ratios):.1%}** (worst {min(ratios):.1%}{goal})"
        speed = _median(found, lambda row, way=way: row[way]["tokens_per_second"])
        first = _median(found, lambda row, way=way: row[way]["first_token_median_s"] * 1000)
        chunks = _median(found, lambda row, way=way: row[way]["reads"] / row[way]["tokens"])
        lines.append(f"| {streams} | {way} | {speed:,.0f} | {ratio} | {first:.1f} | {chunks:.2f} |")
    return lines


def process_lines(rows: Sequence[Row], ways: Sequence[str]) -> list[str]:
    """What each process used of the processors on each way."""
    lines = [
        "| streams | way | process | CPU, us per token | us per chunk | of a core | waited for a core, us per token "
        "| runs per 1,000 tokens | of these cut short |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for streams, way, found in _each(rows, ways):
        for name in found[0][way]["processes"]:

            def use(row: Row, key: str, way: str = way, name: str = name) -> float:
                return float(row[way]["processes"][name][key])

            share = _median(found, lambda row, way=way, use=use: use(row, "cpu_s") / row[way]["seconds"])
            if share < 0.002:  # it had no part in it
                continue
            per_token = [
                _median(found, lambda row, key=key, way=way, use=use: use(row, key) / row[way]["tokens"])
                for key in ("cpu_s", "waited_s", "runs", "forced")
            ]
            per_chunk = _median(found, lambda row, way=way, use=use: use(row, "cpu_s") / row[way]["reads"])
            lines.append(
                f"| {streams} | {way} | {name} | {per_token[0] * 1e6:.1f} | {per_chunk * 1e6:.1f} | {share:.0%} "
                f"| {per_token[1] * 1e6:.1f} "
                f"| {per_token[2] * 1e3:,.0f} | {per_token[3] * 1e3:,.1f} |"
            )
        waited = _median(found, lambda row, way=way: row[way]["generator_waited_share"])
        share = _median(found, lambda row, way=way: row[way]["generator_cpu_share"])
        lines.append(f"| {streams} | {way} | load generator | | | {share:.0%} | ({waited:.0%} of the time) | | |")
    return lines


def _each(rows: Sequence[Row], ways: Sequence[str]) -> list[tuple[int, str, list[Row]]]:
    counts = dict.fromkeys(row["streams"] for row in rows)
    return [(streams, way, [row for row in rows if row["streams"] == streams]) for streams in counts for way in ways]


def _median(rows: Sequence[Row], value: Callable[[Row], float]) -> float:
    return statistics.median(value(row) for row in rows)
