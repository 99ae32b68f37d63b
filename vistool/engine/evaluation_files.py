"""What an evaluation leaves behind: its numbers for machines, tables, figures and a page."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vistool.engine.evaluate import Evaluation
from vistool.engine.report import EvaluationReport, Scores, VideoFacts, write_report
from vistool.engine.report_files import write_diagnosis, write_figures
from vistool.errors import DataError
from vistool.evaluation.curves import precision_recall_curves
from vistool.formats.atomic import atomic_path
from vistool.formats.dataset import AnnotatedVideo, DataSet, frame_file
from vistool.formats.results import Category

METRICS, CATEGORIES, REPORT, FIGURES = "metrics.json", "categories.csv", "report.html", "figures"
BY_CATEGORY = ("AP", "AP50", "AP75", "AR10", "HOTA", "AssA")


def write_evaluation(
    folder: Path, result: Evaluation, content: Mapping[str, Any], report: EvaluationReport | None
) -> None:
    """Write metrics.json and the tables; with a report, also its page and figures.

    Args: content: what `Evaluation.as_json` gives.
    """
    with atomic_path(folder / METRICS) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
    _write_categories(folder / CATEGORIES, result)
    if report is None:
        return
    write_diagnosis(folder, report)
    write_figures(folder / FIGURES, report)
    scored = result.scored
    write_report(
        folder / REPORT,
        report,
        tracks=lambda video_id: (scored.truth[video_id], scored.predictions[video_id]),
    )


def _write_categories(path: Path, result: Evaluation) -> None:
    rows = result.by_category()
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def report_of(dataset: DataSet, result: Evaluation, content: Mapping[str, Any]) -> EvaluationReport:
    """The results as the page and the text need them."""
    scored = result.scored
    hota = result.hota.by_video()
    return EvaluationReport(
        title=f"{dataset.path.name}: {_subject(content)}",
        facts=_facts(content),
        scores={
            name: {k: float(v) for k, v in content[name].items()}
            for name in ("ytvis", "hota", "davis", "identity")
            if name in content
        },
        tables={"By category": _categories(content), **_groups(content)},
        categories=tuple(Category(id=i, name=name) for i, name in scored.categories.items()),
        videos={
            video.id: VideoFacts(
                video.name,
                _pictures(dataset, video),
                hota[video.id].summary() if video.id in hota else {},
            )
            for video in scored.videos
        },
        curves=precision_recall_curves(result.ap),
        diagnosis=result.diagnosis,
    )


def _subject(content: Mapping[str, Any]) -> str:
    inputs = content["inputs"]
    return (
        inputs["model"]["name"] if "model" in inputs else Path(inputs["predictions"]["path"]).name
    )


def _facts(content: Mapping[str, Any]) -> dict[str, str]:
    inputs, counts, labels = content["inputs"], content["counts"], content["labels"]
    facts = {
        "Data set": inputs["dataset"]["path"],
        "Predictions": inputs["predictions"]["path"],
        "Videos": f"{counts['videos']}, {counts['frames']} frames",
        "Labelled tracks": str(counts["truth_tracks"]),
        "Predicted tracks": str(counts["predicted_tracks"]),
    }
    if "model" in inputs:
        facts["Model"] = f"{inputs['model']['name']} ({inputs['model']['sha256'][:12]})"
    for name, members in labels["merged_categories"].items():
        facts[f"As {name}"] = ", ".join(members)
    if labels["unscored_categories"]:
        facts["Not scored"] = ", ".join(
            f"{name} ({number})" for name, number in labels["unscored_categories"].items()
        )
    if labels["predictions_not_judged"]:
        facts["Left out"] = (
            f"{labels['predictions_not_judged']} predictions that may show what is not labelled"
        )
    return facts


def _categories(content: Mapping[str, Any]) -> Scores:
    return {
        row["name"]: {
            "labelled": row["truth"],
            "predicted": row["predictions"],
            **{name: row.get(name, -1.0) for name in BY_CATEGORY},
        }
        for row in content["categories"]
    }


def _groups(content: Mapping[str, Any]) -> dict[str, Scores]:
    return {f"By {kind}": groups for kind, groups in content["breakdown"].items()}


def _pictures(dataset: DataSet, video: AnnotatedVideo) -> tuple[Path, ...]:
    """The frames of a video, if they are at hand, and where they belong."""
    try:
        files = tuple(frame_file(dataset.frames, name) for name in video.file_names)
    except DataError:  # a name that leads out of the folder: numbers need no pictures
        return ()
    return files if files and files[0].is_file() else ()
