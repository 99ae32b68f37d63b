"""Charts: bars, lines, reliability diagrams and heat maps, as PNG files and as SVG for pages."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from vistool.errors import visible
from vistool.formats.files import atomic_path

INK = "#1c2733"  # text, axes and grid; an SVG uses it in the light colour scheme
INK_DARK = "#dde4ec"  # the same in the dark scheme
# The colours of Okabe and Ito, which colour-blind readers can distinguish; pale ones are left out.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a6a00")
# From transparent to opaque, for light and dark backgrounds.
SHARES = LinearSegmentedColormap.from_list("shares", [f"{SERIES[0]}00", f"{SERIES[0]}ff"])
PNG_DPI = 150
MOST_NUMBERED = 20  # heat maps with more rows do not show their counts
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "vistool",  # the same chart gives the same bytes
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and its description in words."""

    name: str  # of its file, without suffix
    title: str
    description: str  # alternative text
    figure: Figure

    def write_png(self, folder: Path) -> Path:
        """Write NAME.png on a white background. Returns: its path."""
        path = folder / f"{self.name}.png"
        with atomic_path(path) as temporary, matplotlib.rc_context(STYLE):
            self.figure.savefig(temporary, format="png", dpi=PNG_DPI, facecolor="white")
        return path

    def svg(self) -> bytes:
        """The chart with a transparent background; text follows the light or dark scheme."""
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        text = buffer.getvalue().decode()
        text = text[text.index("<svg") :].replace(INK, "currentColor")
        head, tail = text.split(">", 1)
        scheme = (
            f"<style>svg{{color:{INK}}}"
            f"@media(prefers-color-scheme:dark){{svg{{color:{INK_DARK}}}}}</style>"
        )
        return f"{head}>{scheme}{tail}".encode()


def bar_chart(
    name: str, title: str, labels: Sequence[str], series: Mapping[str, Sequence[float]], unit: str
) -> Chart:
    """Horizontal bars, one per label and series, with their values."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(6.4, 0.9 + 0.22 * len(labels) * max(len(series), 1))
        thickness = 0.8 / max(len(series), 1)
        for i, (what, values) in enumerate(series.items()):
            places = np.arange(len(labels)) + (i - (len(series) - 1) / 2) * thickness
            bars = axes.barh(places, values, thickness * 0.92, color=_color(i), label=_plain(what))
            axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=7.5)
        axes.set_yticks(range(len(labels)), [_plain(label) for label in labels])
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel(unit)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        if len(series) > 1:
            axes.legend(loc="lower right")
    numbers = "; ".join(
        f"{label}: {', '.join(f'{what} {values[i]:.3f}' for what, values in series.items())}"
        for i, label in enumerate(labels)
    )
    return Chart(name, title, f"{title}. {numbers}.", figure)


def line_chart(
    name: str,
    title: str,
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    axes_names: tuple[str, str],
    limits: tuple[float, float] | None = None,
) -> Chart:
    """Lines with common x values; the first is the main one and thicker.

    Args: limits: of the y axis; None: from the lines.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(5.4, 3.6)
        for i, (what, values) in enumerate(lines.items()):
            style = ("-", "--", ":")[i // len(SERIES) % 3]
            width = 2.4 if i == 0 else 1.2
            axes.plot(x, values, style, color=_color(i), linewidth=width, label=_plain(what))
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        if limits:
            axes.set_ylim(*limits)
        axes.grid()
        if len(lines) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), fontsize=7.5)
    means = ", ".join(f"{what} {np.mean(values):.3f}" for what, values in lines.items())
    return Chart(name, title, f"{title}; mean heights: {means}.", figure)


def reliability_diagram(
    name: str, title: str, edges: Sequence[float], shares: Sequence[float], counts: Sequence[int]
) -> Chart:
    """The share of right tracks in every bin of scores, and below it the number of tracks.

    Args: edges: [N + 1] of the bins; shares, counts: [N], empty bins are not drawn.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        widths = np.diff(edges)
        drawn = np.where(np.asarray(counts) > 0, shares, 0.0)
        upper.bar(edges[:-1], drawn, widths * 0.94, align="edge", color=_color(0))
        upper.plot([0, 1], [0, 1], "--", color=INK, linewidth=1)
        upper.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
        upper.grid(axis="y")
        lower.bar(edges[:-1], counts, widths * 0.94, align="edge", color=_color(1))
        lower.set(xlabel="score", ylabel="tracks")
        for axes in (upper, lower):
            axes.set_axisbelow(True)
    bins = ", ".join(
        f"{edges[i]:.1f} to {edges[i + 1]:.1f}: {share:.2f} of {counts[i]}"
        for i, share in enumerate(shares)
        if counts[i]
    )
    return Chart(name, title, f"{title}; share right by score: {bins or 'no tracks'}.", figure)


def heat_map(
    name: str,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    counts: Sequence[Sequence[int]],
    *,
    axes_names: tuple[str, str],
) -> Chart:
    """A matrix of counts, coloured by the share of its row."""
    table = np.asarray(counts, float)
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(2.2 + 0.34 * len(columns), 1.6 + 0.28 * len(rows))
        axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), [_plain(c) for c in columns], rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), [_plain(r) for r in rows])
        axes.set(xlabel=axes_names[1], ylabel=axes_names[0])
        if len(rows) <= MOST_NUMBERED:
            for (r, c), count in np.ndenumerate(table):
                if count:
                    color = "#ffffff" if shares[r, c] > 0.55 else INK
                    axes.text(c, r, f"{count:.0f}", ha="center", va="center", color=color, size=7.5)
    diagonal = sum(table[i, i] for i in range(min(table.shape)))
    description = f"{title}: {diagonal:.0f} of {table.sum():.0f} on the diagonal."
    return Chart(name, title, description, figure)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    # Without pyplot there is no global state and no window system.
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _color(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _plain(text: str) -> str:
    """A name, escaped for Matplotlib: `$` would begin a formula, a leading `_` hide the entry."""
    shown = visible(text[:40]).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
