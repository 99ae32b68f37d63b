"""The reasons behind an evaluation as text for the terminal, and as JSON, CSV and PNG files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vistool.engine.report import EvaluationReport
from vistool.engine.report_charts import charts_of
from vistool.errors import visible
from vistool.evaluation.video_ap import NOT_MEASURED
from vistool.formats.atomic import atomic_path

DIAGNOSIS = "diagnosis.json"
WORST_VIDEOS = 5  # on the terminal
Row = Mapping[str, Any]


def diagnosis_as_json(report: EvaluationReport) -> dict[str, Any]:
    """Breakdown, confusion, calibration, curves and the worst, for `--json` and files."""
    content: dict[str, Any] = msgspec.to_builtins(report.diagnosis)
    return {**content, "curves": msgspec.to_builtins(report.curves)}


def write_diagnosis(folder: Path, report: EvaluationReport) -> list[Path]:
    """Write diagnosis.json, and for tables one CSV file a subject. Returns the files."""
    path = folder / DIAGNOSIS
    with atomic_path(path) as temporary:
        temporary.write_bytes(msgspec.json.encode(diagnosis_as_json(report)) + b"\n")
    return [path, *(_write_csv(folder / f"{name}.csv", rows) for name, rows in _tables(report))]


def write_figures(folder: Path, report: EvaluationReport) -> list[Path]:
    """Write every chart of the report as a PNG file. Returns the files."""
    return [chart.write_png(folder) for chart in charts_of(report).values()]


def diagnosis_as_text(report: EvaluationReport) -> str:
    """The reasons in short, for the terminal."""
    diagnosis = report.diagnosis
    breakdown = diagnosis.breakdown
    lines = [
        f"{'if mended':18}{'count':>7}{'AP50':>8}{'gain':>9}{'AP':>8}{'gain':>9}",
        *(
            f"{m.kind:18}{m.count:7}{_cell(m.ap50)}{m.ap50_gain:+9.3f}{_cell(m.ap)}{m.ap_gain:+9.3f}"
            for m in sorted(breakdown.kinds, key=lambda m: -m.ap50_gain)
        ),
        "",
        f"{'worst videos':30}{'AP lost':>8}{'labelled':>10}{'found':>7}{'false':>7}",
    ]
    for video in diagnosis.videos[:WORST_VIDEOS]:
        name = visible(report.video_name(video.video_id))
        lines.append(
            f"{name[:29]:30}{video.ap_lost:8.3f}{video.num_truth:10}{video.num_found:7}"
            f"{video.num_false:7}"
        )
    calibration = diagnosis.calibration
    if calibration.count:
        side = "above" if calibration.bias > 0 else "below"
        lines += [
            "",
            f"calibration error {calibration.error:.3f}; scores are {abs(calibration.bias):.3f} "
            f"{side} the share that is right",
        ]
    return "\n".join(lines)


def _tables(report: EvaluationReport) -> Iterator[tuple[str, Sequence[Row]]]:
    """Name and rows of every CSV file."""
    diagnosis = report.diagnosis
    yield "errors", msgspec.to_builtins(diagnosis.breakdown.kinds)
    yield (
        "videos",
        [
            {
                "name": report.video_name(row["video_id"]),
                **{name: value for name, value in row.items() if name != "kinds"},
                **row["kinds"],
            }
            for row in msgspec.to_builtins(diagnosis.videos)
        ],
    )
    yield "tracks", [_named(report, row) for row in msgspec.to_builtins(diagnosis.tracks)]
    yield (
        "false_positives",
        [_named(report, row) for row in msgspec.to_builtins(diagnosis.false_positives)],
    )
    yield "calibration", msgspec.to_builtins(diagnosis.calibration.bins)
    confusion = diagnosis.confusion
    names = [report.category_name(id_) for id_ in confusion.category_ids]
    yield (
        "confusion",
        [
            {"labelled": labelled, "predicted": predicted, "count": count}
            for labelled, row in zip([*names, "background"], confusion.counts, strict=True)
            for predicted, count in zip([*names, "missed"], row, strict=True)
            if count
        ],
    )
    yield "curves", list(_curve_rows(report))


def _curve_rows(report: EvaluationReport) -> Iterator[Row]:
    for curve in report.curves.curves:
        id_ = curve.category_id
        name = "mean" if id_ is None else report.category_name(id_)
        for place, recall in enumerate(report.curves.recall):
            levels = {level: values[place] for level, values in curve.precision.items()}
            yield {"category_id": id_, "category": name, "recall": recall, **levels}


def _named(report: EvaluationReport, row: Row) -> Row:
    return {
        "video": report.video_name(row["video_id"]),
        "category": report.category_name(row["category_id"]),
        **row,
    }


def _write_csv(path: Path, rows: Sequence[Row]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _cell(value: float) -> str:
    return f"{'-':>8}" if value == NOT_MEASURED else f"{value:8.3f}"
