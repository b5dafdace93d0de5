"""A load test as a picture, in the page's colours. The only module that knows matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server_manager.load_test.export import method_words
from server_manager.load_test.run import Level, LoadRun, Metrics, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FONTS = (
    "Inter",
    "Noto Sans",
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
)
_MARKERS = "osD^vPX"
_MOST_DISTRIBUTIONS = 6


@dataclass(frozen=True, slots=True)
class Look:
    """Colours."""

    page: str
    text: str
    muted: str
    line: str
    series: tuple[str, ...]


LIGHT = Look(
    "#ffffff", "#1f2937", "#667085", "#e3e6eb",
    ("#4f46e5", "#e69f00", "#009e73", "#56b4e9", "#d55e00", "#cc79a7", "#64748b"),
)  # fmt: skip
DARK = Look(
    "#151b2b", "#e5e7eb", "#94a3b8", "#2a3246",
    ("#818cf8", "#e69f00", "#2dbd93", "#56b4e9", "#f08a4b", "#d99ac0", "#94a3b8"),
)  # fmt: skip


def draw_png(run: LoadRun, *, dark: bool = False) -> bytes:
    """Latency and throughput by level, and the distribution of first tokens.

    Takes a second the first time, when matplotlib is imported: to be called in a thread.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415  # 0.4 s and 30 MB, for this alone
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    look = DARK if dark else LIGHT
    layout = ConstrainedLayoutEngine(rect=(0.01, 0.05, 0.98, 0.86), hspace=0.08, wspace=0.06)
    figure = Figure(figsize=(11, 7.6), dpi=150, facecolor=look.page, layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    rows = [row for row in run.rows if any(level.metrics and level.metrics.completed for level in row.levels)]
    _lines(axes[0][0], rows, look, "Time to first token (ms)", ("p50_ttft_ms", "p99_ttft_ms"))
    _lines(axes[0][1], rows, look, "Time per output token (ms)", ("p50_tpot_ms", "p99_tpot_ms"))
    _lines(axes[1][0], rows, look, "Output tokens per second", ("output_throughput",))
    if len(rows) == 1:
        _distribution(axes[1][1], rows[0], look)
    else:
        _lines(axes[1][1], rows, look, "Whole answer (ms)", ("p50_e2el_ms", "p99_e2el_ms"))
    _words(figure, run, rows, look)
    fonts = _known_fonts()
    for text in figure.findobj(lambda artist: hasattr(artist, "set_fontfamily")):
        text.set_fontfamily(fonts)  # type: ignore[attr-defined]
    picture = io.BytesIO()
    figure.savefig(picture, format="png", facecolor=look.page)
    return picture.getvalue()


def _lines(ax: Axes, rows: Sequence[Row], look: Look, title: str, names: Sequence[str]) -> None:
    """One line per model: the first figure drawn through, the second dashed. Levels stand at equal distances."""
    labels = list(dict.fromkeys(level.label for row in rows for level in _measured(row)))
    for number, row in enumerate(rows):
        color = look.series[number % len(look.series)]
        for dashed, name in enumerate(names):
            points = [
                (labels.index(level.label), value)
                for level in _measured(row)
                if (value := _figure_of(name)(level.metrics)) is not None
            ]
            ax.plot(
                [x for x, _ in points], [y for _, y in points], color=color, marker=_MARKERS[number % len(_MARKERS)],
                markersize=5, linewidth=1.8, linestyle="--" if dashed else "-", alpha=0.75 if dashed else 1.0,
                label=row.model if not dashed else None,
            )  # fmt: skip
    ax.set_xticks(range(len(labels)), labels)
    ax.set_ylim(bottom=0)
    is_rate = any("/s" in label or label == "inf" for label in labels)
    ax.set_xlabel("requests per second asked for" if is_rate else "requests at a time")
    _dress(ax, title + (" · p50, p99 dashed" if len(names) > 1 else ""), look)


def _distribution(ax: Axes, row: Row, look: Look) -> None:
    """The share of requests by their time to first token, a step line per level."""
    shown = [level for level in _measured(row) if level.ttft_histogram is not None][-_MOST_DISTRIBUTIONS:]
    for number, level in enumerate(shown):
        found = level.ttft_histogram
        assert found is not None
        total = sum(found.counts) or 1
        shares = [100 * sum(found.counts[: position + 1]) / total for position in range(len(found.counts))]
        color = look.series[number % len(look.series)]
        ax.plot(found.edges_ms, [0.0, *shares], color=color, linewidth=1.8, label=level.label)
    ax.set_ylim(0, 102)
    ax.set_xlabel("ms")
    if len(shown) > 1:
        legend = ax.legend(frameon=False, fontsize=8, labelcolor=look.text, loc="lower right", title="level")
        legend.get_title().set_color(look.muted)
        legend.get_title().set_fontsize(8)
    _dress(ax, "First token within … (% of requests)", look)


def _words(figure: Figure, run: LoadRun, rows: Sequence[Row], look: Look) -> None:
    figure.text(0.02, 0.965, run.name, color=look.text, fontsize=15, fontweight="bold", va="center")
    figure.text(0.02, 0.928, method_words(run), color=look.muted, fontsize=9, va="center")
    if run.sla is not None and run.sla.words:
        figure.text(0.02, 0.022, run.sla.words, color=look.text, fontsize=10, va="center")
    elif len(rows) > 1:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="lower center",
            ncols=min(4, len(labels)),
            frameon=False,
            labelcolor=look.text,
            fontsize=9,
        )


def _dress(ax: Axes, title: str, look: Look) -> None:
    ax.set_facecolor(look.page)
    ax.set_title(title, fontsize=10, color=look.text, loc="left", fontweight="bold")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(look.line)
    ax.tick_params(colors=look.muted, labelsize=8, length=0)
    ax.xaxis.label.set_color(look.muted)
    ax.xaxis.label.set_fontsize(8)
    ax.grid(axis="y", color=look.line, linewidth=0.8)
    ax.set_axisbelow(True)


def _measured(row: Row) -> list[Level]:
    return [level for level in _in_order(row) if level.metrics is not None and level.metrics.completed]


def _in_order(row: Row) -> list[Level]:
    """By their load: a search measures them in another order."""
    return sorted(row.levels, key=lambda level: (level.concurrency or 0, level.request_rate or float("inf")))


def _figure_of(name: str) -> Callable[[Metrics | None], float | None]:
    return lambda metrics: getattr(metrics, name)


def _known_fonts() -> list[str]:
    """Those of this machine: naming others would be told in the log each time."""
    from matplotlib import font_manager  # noqa: PLC0415

    there = set(font_manager.get_font_names())
    return [name for name in _FONTS if name in there] or ["sans-serif"]
