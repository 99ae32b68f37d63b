"""The charts of an evaluation's report, for its page and for PNG files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vistool.engine.evaluate.report.content import Measured
from vistool.metrics.curves import LEVELS
from vistool.rendering.figures import (
    Chart,
    bar_chart,
    heat_map,
    line_chart,
    reliability_diagram,
)

MOST_LINES = 14  # in a chart
CURVE_AXES, CURVE_LIMITS = ("recall", "precision"), (0.0, 1.02)


def charts_of(result: Measured) -> dict[str, Chart]:
    """All charts of a report, by file name (without suffix)."""
    charts = [
        _breakdown_chart(result),
        *_curve_charts(result),
        _confusion_chart(result),
        _calibration_chart(result),
    ]
    return {chart.name: chart for chart in charts if chart is not None}


def _breakdown_chart(result: Measured) -> Chart:
    kinds = result.diagnosis.breakdown.kinds
    return bar_chart(
        "error_breakdown",
        "AP gained by correcting one kind of error (oracle)",
        [str(oracle.kind) for oracle in kinds],
        {"AP50": [o.ap50_gain for o in kinds], "AP": [o.ap_gain for o in kinds]},
        "gain",
    )


def _curve_charts(result: Measured) -> Iterator[Chart]:
    curves = result.curves
    if not curves.curves:
        return
    mean, *categories = curves.curves
    yield line_chart(
        "precision_recall",
        "Mean over the categories, by IoU threshold",
        curves.recall,
        mean.precision,
        axes_names=CURVE_AXES,
        limits=CURVE_LIMITS,
    )
    # If there are too many categories for one chart, those with the lowest AP are shown.
    shown = sorted(categories, key=lambda curve: float(np.mean(curve.precision["mean"])))
    for level in LEVELS:
        lines = {"mean": mean.precision[level]}
        for curve in shown[: MOST_LINES - 1]:
            assert curve.category_id is not None
            name = result.scored.categories[curve.category_id]
            # Two categories may share a name.
            lines[name if name not in lines else f"{name} {curve.category_id}"] = curve.precision[
                level
            ]
        title = f"By category, {'mean of IoU 0.5 to 0.95' if level == 'mean' else level}"
        yield line_chart(
            curve_chart_name(level),
            title,
            curves.recall,
            lines,
            axes_names=CURVE_AXES,
            limits=CURVE_LIMITS,
        )


def curve_chart_name(level: str) -> str:
    return f"precision_recall_{level.replace(' ', '_').lower()}"


def _confusion_chart(result: Measured) -> Chart | None:
    rows, columns, counts = seen_confusions(result)
    if not counts:
        return None
    return heat_map(
        "confusion",
        "Labelled and predicted categories, coloured by the share of the row",
        rows,
        columns,
        counts,
        axes_names=("labelled", "predicted"),
    )


def seen_confusions(result: Measured) -> tuple[list[str], list[str], list[list[int]]]:
    """The confusion matrix without categories that never occur.

    Returns: names of the rows, names of the columns, counts.
    """
    confusion = result.diagnosis.confusion
    table = np.array(confusion.counts, np.int64)
    seen = np.flatnonzero((table.sum(axis=0) + table.sum(axis=1))[:-1])
    if not len(seen):
        return [], [], []
    names = [result.scored.categories[confusion.category_ids[i]] for i in seen]
    places = [*seen, -1]
    return [*names, "background"], [*names, "missed"], table[np.ix_(places, places)].tolist()


def _calibration_chart(result: Measured) -> Chart:
    bins = result.diagnosis.calibration.bins
    return reliability_diagram(
        "calibration",
        "Scores and the share of right predictions",
        [bins[0].low, *(b.high for b in bins)],
        [b.share_right for b in bins],
        [b.count for b in bins],
    )
