"""What the rounds of the chat benchmark amount to: figures, goals, the page and the chart."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
LABELS = {
    "direct": "direct",
    "page": "**vLLM Deck's page**",
    "naive": "`gr.ChatInterface`, a yield per token",
    "playground": "vllm-playground's proxy",
}
_COLORS = {"direct": "#9aa0a6", "page": "#2563eb", "naive": "#d97706", "playground": "#7c3aed"}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least that share of all does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


@dataclass(frozen=True)
class Figures:
    """One variant with so many chats at once, over all its rounds."""

    chats: int
    variant: str
    rounds: int
    tokens_per_second: float
    """Median of the rounds, of all chats together."""
    ratio: float
    """To direct in the same round; median."""
    first_token_p50_ms: float
    first_token_p99_ms: float
    first_token_ratio: float
    """Of the p50 to direct's."""
    first_token_later_ms: float
    """Than direct's p50."""
    largest_gap_ms: float
    """Between two pieces of one chat's text, the largest of each round; median."""
    largest_gap_worst_ms: float
    app_cpu_us_per_token: float | None
    frames_per_second: float
    """Of all chats together; median."""
    chunks_per_token: float
    """Pieces of text that came for each token."""
    generator_cpu_share: float
    """Of a core, spent by the clients; median."""


def summarise(rows: Sequence[Row]) -> list[Figures]:
    """Figures for each number of chats and variant, in the order in which they first occur."""
    pairs = list(dict.fromkeys((row["chats"], row["variant"]) for row in rows))
    return [_figures(rows, chats, variant) for chats, variant in sorted(pairs, key=lambda pair: pair[0])]


def _figures(rows: Sequence[Row], chats: int, variant: str) -> Figures:
    mine = [row for row in rows if (row["chats"], row["variant"]) == (chats, variant)]
    direct = {row["round"]: row for row in rows if (row["chats"], row["variant"]) == (chats, "direct")}

    def median(figure: Callable[[Row], float]) -> float:
        return statistics.median(figure(row) for row in mine)

    firsts = [seconds * 1000 for row in mine for seconds in row["first_tokens_s"]]
    plain = [seconds * 1000 for row in direct.values() for seconds in row["first_tokens_s"]]
    p50, plain_p50 = percentile(firsts, 0.5), percentile(plain, 0.5)
    used = [row["processes"]["app"]["cpu_s"] - row["idle_share"] * row["watched_s"] for row in mine if row["processes"]]
    return Figures(
        chats=chats,
        variant=variant,
        rounds=len(mine),
        tokens_per_second=median(lambda row: row["tokens_per_second"]),
        ratio=median(lambda row: row["tokens_per_second"] / direct[row["round"]]["tokens_per_second"]),
        first_token_p50_ms=p50,
        first_token_p99_ms=percentile(firsts, 0.99),
        first_token_ratio=p50 / plain_p50,
        first_token_later_ms=p50 - plain_p50,
        largest_gap_ms=median(lambda row: row["largest_gap_s"]) * 1000,
        largest_gap_worst_ms=max(row["largest_gap_s"] for row in mine) * 1000,
        app_cpu_us_per_token=sum(used) / sum(row["tokens"] for row in mine) * 1e6 if used else None,
        frames_per_second=median(lambda row: row["frames"] / row["seconds"]),
        chunks_per_token=sum(row["frames"] for row in mine) / sum(row["tokens"] for row in mine),
        generator_cpu_share=median(lambda row: row["generator_cpu_share"]),
    )


def turn_cost(rows: Sequence[Row]) -> dict[str, float] | None:
    """Microseconds of the app for a frame, on the first turn and on a late one, and the median ratio of the pairs.

    ``None`` where the rounds were too short to tell.
    """

    def cost(row: Row) -> float:
        if not row.get("streaming_frames"):
            return 0.0
        spent = row["streaming_cpu_s"] - row["idle_share"] * row["streaming_s"]
        return float(spent / row["streaming_frames"] * 1e6)

    late = max((row["turn"] for row in rows), default=0)
    costs = {(row["round"], row["turn"] == late): cost(row) for row in rows}
    numbers = {number for number, _ in costs}
    pairs = [(costs.get((number, False), 0.0), costs.get((number, True), 0.0)) for number in numbers]
    pairs = [pair for pair in pairs if min(pair) > 0]
    if not pairs:
        return None
    return {
        "turn": late,
        "first_us": statistics.median(first for first, _ in pairs),
        "late_us": statistics.median(last for _, last in pairs),
        "ratio": statistics.median(last / first for first, last in pairs),
    }


def goals(figures: Sequence[Figures], turns: dict[str, float] | None) -> list[tuple[str, str, bool]]:
    """Each goal that was measured: what it is, what was found, whether it is reached."""
    found: list[tuple[str, str, bool]] = []
    for one in figures:
        if one.variant != "page":
            continue
        chats = f"{one.chats} chat" + ("s" if one.chats > 1 else "")
        if one.chats >= 32:
            found.append((f"{chats}: at least 98 % of direct", f"{one.ratio:.1%}", one.ratio >= 0.98))
            text = f"{one.first_token_ratio:.2f}x"
            found.append((f"{chats}: first token at most 1.5x direct's", text, one.first_token_ratio <= 1.5))
        if one.chats == 1:
            text = f"{one.first_token_later_ms:+.1f} ms"
            found.append((f"{chats}: first token at most 10 ms later", text, one.first_token_later_ms <= 10))
        if one.chats == 128:
            text = f"{one.largest_gap_ms:.0f} ms (worst round {one.largest_gap_worst_ms:.0f})"
            found.append((f"{chats}: no gap over 150 ms", text, one.largest_gap_worst_ms <= 150))
        if one.chats == 32 and one.app_cpu_us_per_token is not None:
            text = f"{one.app_cpu_us_per_token:.1f} us"
            found.append((f"{chats}: at most 25 us of the app per token", text, one.app_cpu_us_per_token <= 25))
    if turns:
        what = f"a frame at turn {turns['turn']:.0f} costs at most 1.1x one at turn 1"
        found.append((what, f"{turns['ratio']:.2f}x", turns["ratio"] <= 1.1))
    return found


def table(figures: Sequence[Figures]) -> list[str]:
    """Lines of Markdown."""
    lines = [
        "| chats | way | tok/s | of direct | first token p50, ms | against direct | p99, ms | largest gap, ms (worst) "
        "| app CPU, us per token | frames/s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in figures:
        cpu = "–" if one.app_cpu_us_per_token is None else f"{one.app_cpu_us_per_token:.1f}"
        later = "–"
        if one.variant != "direct":
            later = f"{one.first_token_ratio:.2f}x, {one.first_token_later_ms:+.1f}"
        lines.append(
            f"| {one.chats} | {LABELS[one.variant]} | {one.tokens_per_second:,.0f} | {one.ratio:.1%} "
            f"| {one.first_token_p50_ms:.1f} | {later} | {one.first_token_p99_ms:.1f} "
            f"| {one.largest_gap_ms:.0f} ({one.largest_gap_worst_ms:.0f}) | {cpu} | {one.frames_per_second:,.0f} |"
        )
    return lines


def goal_lines(found: Sequence[tuple[str, str, bool]]) -> list[str]:
    """Lines of Markdown."""
    lines = ["| goal | found | |", "|---|---|---|"]
    return lines + [f"| {what} | {text} | {'reached' if good else '**missed**'} |" for what, text, good in found]


def draw(figures: Sequence[Figures], path: Path) -> None:
    """Three charts side by side. Raises ``ImportError`` without matplotlib, which ``make setup`` installs."""
    import matplotlib  # noqa: PLC0415  # a machine that only measures need not have it

    matplotlib.use("agg")
    from matplotlib import pyplot  # noqa: PLC0415

    levels = sorted({one.chats for one in figures})
    variants = [name for name in LABELS if any(one.variant == name for one in figures)]
    kinds: list[tuple[str, Callable[[Figures], float | None], bool]] = [
        ("tokens per second, % of direct", lambda one: one.ratio * 100, False),
        ("first token, ms (p50)", lambda one: one.first_token_p50_ms, True),
        ("app's CPU, microseconds per token", lambda one: one.app_cpu_us_per_token, True),
    ]
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    width = 0.8 / len(variants)
    for ax, (title, value, logarithmic) in zip(axes, kinds, strict=True):
        for number, name in enumerate(variants):
            found = {one.chats: value(one) for one in figures if one.variant == name}
            offset = (number - (len(variants) - 1) / 2) * width
            places = [place + offset for place, chats in enumerate(levels) if found.get(chats)]
            heights = [height for chats in levels if (height := found.get(chats))]
            bars = ax.bar(places, heights, width, label=LABELS[name].strip("*").replace("`", ""), color=_COLORS[name])
            ax.bar_label(bars, fmt="%.0f", fontsize=7)
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(len(levels)), [str(chats) for chats in levels])
        ax.set_xlabel("chats at once")
        ax.spines[["top", "right"]].set_visible(False)
        if logarithmic:
            ax.set_yscale("log")
            ax.set_ylim(bottom=1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(variants), frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
