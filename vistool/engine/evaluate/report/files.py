"""The files of an evaluation: scores as JSON, tables, figures and a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from vistool.engine.evaluate.report.charts import charts_of
from vistool.engine.evaluate.report.content import Measured
from vistool.engine.evaluate.report.page import write_report
from vistool.formats.files import atomic_path, encode_json
from vistool.formats.tables import write_table

METRICS, DIAGNOSIS = "metrics.json", "diagnosis.json"
CATEGORIES, REPORT, FIGURES = "categories.csv", "report.html", "figures"
Row = Mapping[str, Any]


def write_evaluation(folder: Path, result: Measured, *, report: bool = True) -> None:
    """Write metrics.json and categories.csv; with `report`, also the page, figures and tables."""
    with atomic_path(folder / METRICS) as temporary:
        temporary.write_bytes(encode_json(result.as_json(), indented=True) + b"\n")
    write_table(folder / CATEGORIES, result.by_category())
    if report:
        write_diagnosis(folder, result)
        write_figures(folder / FIGURES, result)
        write_report(folder / REPORT, result)


def write_diagnosis(folder: Path, result: Measured) -> list[Path]:
    """Write diagnosis.json, and its tables as CSV files. Returns the files."""
    path = folder / DIAGNOSIS
    content = msgspec.to_builtins(result.diagnosis) | {"curves": result.curves}
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_json(content) + b"\n")
    tables = _tables(result).items()
    return [path, *(write_table(folder / f"{name}.csv", rows) for name, rows in tables)]


def write_figures(folder: Path, result: Measured) -> list[Path]:
    """Write every chart of the report as a PNG file. Returns the files."""
    return [chart.write_png(folder) for chart in charts_of(result).values()]


def _tables(result: Measured) -> dict[str, Sequence[Row]]:
    """The rows of every CSV file, by file name (without suffix)."""
    diagnosis = msgspec.to_builtins(result.diagnosis)
    return {
        "errors": diagnosis["breakdown"]["kinds"],
        "videos": [
            {
                "name": result.video_name(row["video_id"]),
                **{name: value for name, value in row.items() if name != "kinds"},
                **row["kinds"],
            }
            for row in diagnosis["videos"]
        ],
        "tracks": [_named(result, row) for row in diagnosis["tracks"]],
        "false_positives": [_named(result, row) for row in diagnosis["false_positives"]],
        "calibration": diagnosis["calibration"]["bins"],
        "confusion": list(_confusion_rows(result)),
        "curves": list(_curve_rows(result)),
    }


def _confusion_rows(result: Measured) -> Iterator[Row]:
    confusion = result.diagnosis.confusion
    names = [result.scored.categories[id_] for id_ in confusion.category_ids]
    for labelled, row in zip([*names, "background"], confusion.counts, strict=True):
        for predicted, count in zip([*names, "missed"], row, strict=True):
            if count:
                yield {"labelled": labelled, "predicted": predicted, "count": count}


def _curve_rows(result: Measured) -> Iterator[Row]:
    for curve in result.curves.curves:
        id_ = curve.category_id
        name = "mean" if id_ is None else result.scored.categories[id_]
        for place, recall in enumerate(result.curves.recall):
            levels = {level: values[place] for level, values in curve.precision.items()}
            yield {"category_id": id_, "category": name, "recall": recall, **levels}


def _named(result: Measured, row: Row) -> Row:
    return {
        "video": result.video_name(row["video_id"]),
        "category": result.scored.categories[row["category_id"]],
        **row,
    }
