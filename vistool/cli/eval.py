"""`vistool eval`: predictions, saved or made now, against what is labelled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vistool.cli.console import answer, progress, say
from vistool.cli.options import (
    ClipStride,
    DeviceName,
    FrameBatch,
    Frames,
    InputSize,
    PrecisionName,
    Quiet,
)
from vistool.cli.predict import parse_clip_length
from vistool.config import EvalConfig, Precision, PredictConfig
from vistool.errors import PartialFailureError, UsageError, visible
from vistool.progress import OnProgress

if TYPE_CHECKING:
    from vistool.engine.predictions import Predictions
    from vistool.formats.dataset import DataSet

OFFICIAL = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
TRACKING = ["HOTA", "DetA", "AssA", "LocA", "IDF1", "switches", "J_mean", "F_mean"]
NAME_WIDTH = 24  # characters of a category's name in the table


def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="YouTube-VIS or COCO file, or a folder: of one of these, of DAVIS or of MOTS.",
        ),
    ],
    predictions: Annotated[
        Path | None,
        typer.Option(
            "-p",
            "--predictions",
            help="Results to score: a .json, a .zip as servers take it, a folder of an earlier "
            "run, or one of DAVIS PNGs or MOTS files.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("-m", "--model", help="Run this model first: a name, or a weight file."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B",
            help="Two results side by side, and whether they differ by more than chance.",
        ),
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option(help="Write the predictions as the servers take them: OUT.zip."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Where the run's folder goes. [runs/eval]"),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object; saved predictions then get a folder with -o only.",
        ),
    ] = False,
    frames: Frames = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that run the model, each on its own videos.")
    ] = 1,
    conf: Annotated[
        float,
        typer.Option(min=0, max=1, help="Leave out tracks that score less: HOTA depends on it."),
    ] = EvalConfig().conf,
    max_overlap: Annotated[
        float,
        typer.Option(
            help="A model's tracks: of two whose masks overlap by more than this IoU over the "
            "video, score the surer one; 1: both."
        ),
    ] = 1.0,
    clip_length: Annotated[
        str | None, typer.Option(help="Frames that the model sees at once, or `all`.")
    ] = None,
    clip_stride: ClipStride = None,
    size: InputSize = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    batch: FrameBatch = None,
    samples: Annotated[
        int, typer.Option(min=100, help="Draws of the videos that --compare makes.")
    ] = EvalConfig().samples,
    seed: Annotated[int, typer.Option(help="Of these draws.")] = EvalConfig().seed,
    davis: Annotated[
        bool | None,
        typer.Option(
            "--davis/--no-davis",
            help="Measure DAVIS's J and F, which takes longest. [on DAVIS, and up to "
            f"{EvalConfig().davis_masks:,} labelled masks]",
        ),
    ] = None,
    report: Annotated[
        bool,
        typer.Option("--report/--no-report", help="Write the page, figures and tables of errors."),
    ] = True,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="Write into a folder that is there already.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Score tracks: YouTube-VIS AP and AR, HOTA, identities, DAVIS J and F.

    Prints a table, and writes numbers (metrics.json, CSV), figures and report.html into a folder
    below runs/eval. A model's run is saved there as well: the same command again goes on where it
    stopped.

    Example: vistool eval valid.json --predictions results.json

    \b
    More:
      vistool eval valid.json -m ifc-lite --workers 2
      vistool eval DAVIS --predictions masks/ --json
      vistool eval valid.json --compare runs/eval/a runs/eval/b
      vistool eval test.json --predictions results.json --submission out.zip
    """
    if [predictions, model, compare].count(None) != 2:
        raise UsageError(
            "eval needs one of --predictions, --model and --compare",
            hint="vistool eval --help has an example of each",
        )
    config = EvalConfig(
        conf=conf,
        predict=PredictConfig(
            conf=0.0,
            max_overlap=max_overlap,
            clip_length=parse_clip_length(clip_length),
            clip_stride=clip_stride,
            size=size,
            device=device,
            precision=cast("Precision", precision),
            batch=batch,
            overlay=False,
        ),
        workers=workers,
        samples=samples,
        seed=seed,
    )
    if compare:
        _compare(dataset, compare, config, davis, as_json=as_json, quiet=quiet)
        return
    wishes = _Wishes(frames, output, submission, as_json, davis, report, exist_ok, quiet)
    failed = _score(dataset, predictions, model, config, wishes)
    if failed:
        raise PartialFailureError(
            f"{len(failed)} videos could not be run and are not in the numbers: "
            f"{', '.join(failed[:20])}",
            hint="the others are saved: `vistool eval -m` with the same settings runs only these",
        )


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What is to be written, and where; and where the frames are."""

    frames: Path | None
    output: Path | None
    submission: Path | None
    as_json: bool
    davis: bool | None  # None: where it does not take long
    report: bool
    exist_ok: bool
    quiet: bool


def _score(
    path: Path,
    saved: Path | None,
    model: str | None,
    config: EvalConfig,
    wishes: _Wishes,
) -> list[str]:
    """Make or read predictions, score them, write and print. Returns the videos that failed."""
    from vistool.engine import evaluate as engine
    from vistool.engine.evaluation_files import report_of, write_evaluation
    from vistool.engine.predictions import (
        folder_of_run,
        inputs_of,
        new_folder,
        open_dataset,
        read_predictions,
    )
    from vistool.engine.report_files import diagnosis_as_text
    from vistool.engine.submission import write_submission

    dataset, key = open_dataset(path, *([saved] if saved else []), frames=wishes.frames)
    parent = wishes.output or Path("runs/eval")
    if model is not None:
        with progress(quiet=wishes.quiet) as show:
            predictions = _run_model(dataset, key, model, parent, config, show)
    else:
        assert saved is not None
        with progress(quiet=wishes.quiet, unit="results") as show:
            predictions = read_predictions(saved, dataset, key, on_progress=show)
    if predictions is None:  # another process scores
        return []
    predictions = predictions.above(config.conf)
    for warning in predictions.warnings:
        say(f"warning: {warning}")
    names = {video.id: video.name for video in dataset.videos}
    failed = [names[id_] for id_ in predictions.failed]
    if wishes.submission:
        if failed:
            return failed
        answer(str(write_submission(wishes.submission, predictions)))
        if not dataset.tracks:
            return []
    with progress(quiet=wishes.quiet, unit="videos") as show:
        davis = engine.boundaries_wanted(dataset, config, wishes.davis)
        result = engine.evaluate(dataset, predictions, boundaries=davis, on_progress=show)
    content = result.as_json(inputs_of(dataset, key, predictions))
    report = report_of(dataset, result, content)
    if model is not None or wishes.output or not wishes.as_json:
        if model is not None:
            folder = folder_of_run(predictions)
        else:
            folder = new_folder(predictions, dataset, parent, exist_ok=wishes.exist_ok)
        write_evaluation(folder, result, content, report if wishes.report else None)
        say(f"saved in {folder}")
    if wishes.as_json:
        answer(json.dumps(content))
        return failed
    answer(_table(content))
    answer(f"\n{diagnosis_as_text(report)}")
    return failed


def _run_model(
    dataset: DataSet,
    key: str,
    model: str,
    parent: Path,
    config: EvalConfig,
    show: OnProgress,
) -> Predictions | None:
    from vistool.engine.predict_dataset import predict_dataset
    from vistool.engine.predictions import predictions_of_run

    done = predict_dataset(
        dataset,
        key,
        model,
        parent,
        config.predict,
        workers=config.workers,
        on_progress=show,
        on_failure=lambda name, why: say(f"error: {name}: {why}"),
    )
    return predictions_of_run(done, dataset) if done else None


def _compare(
    path: Path,
    results: tuple[Path, Path],
    config: EvalConfig,
    davis: bool | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from vistool.engine.compare import compare

    with progress(quiet=quiet, unit="videos") as show:
        comparison = compare(path, *results, config, boundaries=davis, on_progress=show)
    if as_json:
        answer(json.dumps(comparison.as_json()))
        return
    answer(f"A  {results[0]}\nB  {results[1]}\n")
    lines = [f"{'':12}{'A':>8}{'B':>8}{'B - A':>9}   {'95 % interval':18}{'p':>7}"]
    lines += [
        f"{d.name:12}{d.a:8.3f}{d.b:8.3f}{d.difference:+9.3f}   "
        f"{f'{d.low:+.3f} to {d.high:+.3f}':18}{d.p:7.3f}"
        for d in comparison.differences
    ]
    answer("\n".join(lines))
    answer(f"\n{comparison.num_videos} videos, drawn {config.samples} times with replacement")


def _table(content: Mapping[str, Any]) -> str:
    """The numbers for people."""
    counts, labels = content["counts"], content["labels"]
    lines = [
        "{videos} videos, {frames} frames, {truth_tracks} labelled tracks, "
        "{predicted_tracks} predicted".format(**counts),
        *_notes(labels),
        "",
        *_block(content["ytvis"], OFFICIAL[:6]),
        *_block(content["ytvis"], OFFICIAL[6:]),
        *_block({**content["hota"], **content["identity"], **content.get("davis", {})}, TRACKING),
    ]
    rows = [row for row in content["categories"] if row["truth"] or row["predictions"]]
    columns = ["AP", "AP50", "AP75", "AR10", "HOTA", "AssA"]
    lines.append(
        f"{'category':{NAME_WIDTH}}{'labelled':>9}{'found':>7}"
        + "".join(f"{name:>8}" for name in columns)
    )
    for row in sorted(rows, key=lambda row: -row["truth"]):
        numbers = "".join(_cell(row.get(name, -1)) for name in columns)
        name = visible(row["name"])[: NAME_WIDTH - 1]
        lines.append(f"{name:{NAME_WIDTH}}{row['truth']:9}{row['predictions']:7}{numbers}")
    return "\n".join(lines)


def _notes(labels: Mapping[str, Any]) -> list[str]:
    """What was merged or left out."""
    notes = [
        f"{name}: {', '.join(members)} together"
        for name, members in labels["merged_categories"].items()
    ]
    if labels["unscored_categories"]:
        left = ", ".join(f"{name} ({n})" for name, n in labels["unscored_categories"].items())
        notes.append(f"the model has no class for, so not scored: {left}")
    if labels["partly_labelled_videos"] or labels["unnamed_objects_ignored"]:
        notes.append(
            f"{labels['partly_labelled_videos']} videos labelled in part, "
            f"{labels['unnamed_objects_ignored']} objects without a category: "
            f"{labels['predictions_not_judged']} predictions there count neither way"
        )
    return [visible(note) for note in notes]


def _block(numbers: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """Names over their numbers, and an empty line."""
    return [
        "".join(f"{name:>9}" for name in names),
        "".join(f" {_cell(numbers.get(name, -1))}" for name in names),
        "",
    ]


def _cell(value: float) -> str:
    if isinstance(value, int):
        return f"{value:8}" if value >= 0 else f"{'-':>8}"
    return f"{'-':>8}" if value == -1 else f"{value:8.3f}"
