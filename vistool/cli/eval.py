"""`vistool eval`: score predictions, saved or made by a model, against labelled tracks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from msgspec import structs

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
from vistool.config import EvalConfig, Precision
from vistool.errors import PartialFailureError, UsageError, visible

if TYPE_CHECKING:
    from vistool.engine.evaluate.report.content import Measured
    from vistool.engine.evaluate.scored_set import ScoredSet

OFFICIAL = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
# Units of stages that do not count frames.
UNITS = {"checking results": "results", "reading predictions": "videos", "scoring": "videos"}
TRACKING = ["HOTA", "DetA", "AssA", "LocA", "IDF1", "switches", "J_mean", "F_mean"]
WORST_VIDEOS = 5
NAME_WIDTH = 24  # characters of a category's name in the table


def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="YouTube-VIS or COCO file, a folder with one, or a DAVIS or MOTS folder.",
        ),
    ],
    predictions: Annotated[
        Path | None,
        typer.Option(
            "-p",
            "--predictions",
            help="Results to score: a .json, a .zip as for a server, the folder of an earlier "
            "run, or a folder of DAVIS PNGs or MOTS files.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("-m", "--model", help="Run this model first: a name or a weight file."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B",
            help="Compare two results, and test whether the differences are significant.",
        ),
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option(help="Write the predictions as a zip for an evaluation server: OUT.zip."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Parent of the run's folder. [runs/eval]"),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object; files for saved predictions are then written only with "
            "-o.",
        ),
    ] = False,
    frames: Frames = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that run the model, each on its own videos.")
    ] = 1,
    conf: Annotated[
        float,
        typer.Option(min=0, max=1, help="Leave out tracks with a lower score; HOTA depends on it."),
    ] = EvalConfig().conf,
    max_overlap: Annotated[
        float | None,
        typer.Option(
            help="With --model: of two tracks whose IoU over the video is above this, keep only "
            "the higher-scoring one (duplicate removal); 1: keep both."
        ),
    ] = EvalConfig().predict.max_overlap,
    clip_length: Annotated[
        str | None, typer.Option(help="Frames that the model sees at once, or `all`.")
    ] = None,
    clip_stride: ClipStride = None,
    size: InputSize = None,
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    batch: FrameBatch = None,
    samples: Annotated[
        int, typer.Option(min=100, help="Bootstrap samples for --compare.")
    ] = EvalConfig().samples,
    seed: Annotated[int, typer.Option(help="Seed of these samples.")] = EvalConfig().seed,
    davis: Annotated[
        bool | None,
        typer.Option(
            "--davis/--no-davis",
            help="Compute DAVIS's J and F, which take longest. [on DAVIS, and on sets with up to "
            f"{EvalConfig().davis_masks:,} labelled masks]",
        ),
    ] = None,
    report: Annotated[
        bool,
        typer.Option("--report/--no-report", help="Write a page, figures and tables of errors."),
    ] = True,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="Write into an existing folder.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Score tracks: YouTube-VIS AP and AR, HOTA, identities, DAVIS J and F.

    Prints a table, and writes scores (metrics.json, CSV), figures and report.html into a folder
    below runs/eval. The predictions of a model are saved there, too: the same command resumes an
    interrupted run.

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
        predict=structs.replace(
            EvalConfig().predict,
            max_overlap=max_overlap,
            clip_length=parse_clip_length(clip_length),
            clip_stride=clip_stride,
            size=size,
            device=device,
            precision=cast("Precision", precision),
            batch=batch,
        ),
        workers=workers,
        samples=samples,
        seed=seed,
    )
    if compare:
        _compare(dataset, compare, config, davis, as_json=as_json, quiet=quiet)
        return
    from vistool.engine.evaluate.evaluate import RUNS, EvalJob

    job = EvalJob(
        dataset=dataset,
        predictions=predictions,
        model=model,
        frames=frames,
        config=config,
        davis=davis,
        output=output or RUNS,
        write=model is not None or output is not None or not as_json,
        report=report,
        submission=submission,
        exist_ok=exist_ok,
    )
    with progress(quiet=quiet, units=UNITS) as show:
        done = job.run(show, say)
    if done.submission:
        answer(str(done.submission))
    if done.folder:
        say(f"saved in {done.folder}")
    if done.evaluation:
        answer(json.dumps(done.evaluation.as_json()) if as_json else table(done.evaluation))
    if done.failed:
        raise PartialFailureError(
            f"{len(done.failed)} videos could not be run and are not in the scores: "
            f"{', '.join(done.failed[:20])}",
            hint="the others are saved; `vistool eval -m` with the same settings runs only these",
        )


def _compare(
    path: Path,
    results: tuple[Path, Path],
    config: EvalConfig,
    davis: bool | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from vistool.engine.evaluate.compare import compare

    with progress(quiet=quiet, units=UNITS) as show:
        comparison = compare(path, *results, config, davis=davis, on_progress=show)
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


ALL_SCORES = (
    "HOTA, identities, J and F count predicted tracks of any score; with --conf 0.5, only tracks "
    "that `vistool predict` reports"
)


def table(result: Measured) -> str:
    """The scores and the errors as text."""
    scored, numbers = result.scored, result.numbers()
    tracking = {**numbers["hota"], **numbers["identity"], **numbers.get("davis", {})}
    lines = [
        f"{len(scored.videos)} videos, {scored.num_frames} frames, {scored.num_truth} labelled "
        f"tracks, {scored.num_predictions} predicted",
        *_notes(scored),
        "",
        *_block(numbers["ytvis"], OFFICIAL[:6]),
        *_block(numbers["ytvis"], OFFICIAL[6:]),
        *_block(tracking, TRACKING),
        *([] if result.source.conf else [ALL_SCORES, ""]),
    ]
    rows = [row for row in result.by_category() if row["truth"] or row["predictions"]]
    columns = ["AP", "AP50", "AP75", "AR10", "HOTA", "AssA"]
    lines.append(
        f"{'category':{NAME_WIDTH}}{'labelled':>9}{'predicted':>11}"
        + "".join(f"{name:>8}" for name in columns)
    )
    for row in sorted(rows, key=lambda row: -row["truth"]):
        values = "".join(_cell(row.get(name, -1)) for name in columns)
        name = visible(row["name"])[: NAME_WIDTH - 1]
        lines.append(f"{name:{NAME_WIDTH}}{row['truth']:9}{row['predictions']:11}{values}")
    return "\n".join([*lines, "", *_errors(result)])


def _errors(result: Measured) -> list[str]:
    """A summary of the diagnosis: errors by kind, worst videos, calibration."""
    diagnosis = result.diagnosis
    lines = [
        f"{'if corrected':18}{'count':>7}{'AP50':>8}{'gain':>9}{'AP':>8}{'gain':>9}",
        *(
            f"{o.kind:18}{o.count:7}{_cell(o.ap50)}{o.ap50_gain:+9.3f}{_cell(o.ap)}{o.ap_gain:+9.3f}"
            for o in sorted(diagnosis.breakdown.kinds, key=lambda oracle: -oracle.ap50_gain)
        ),
        "",
        f"{'worst videos':30}{'AP lost':>8}{'labelled':>10}{'found':>7}{'false':>7}",
    ]
    for video in diagnosis.videos[:WORST_VIDEOS]:
        name = visible(result.video_name(video.video_id))
        lines.append(
            f"{name[:29]:30}{video.ap_lost:8.3f}{video.num_truth:10}{video.num_found:7}"
            f"{video.num_false:7}"
        )
    calibration = diagnosis.calibration
    if calibration.count:
        side = "above" if calibration.bias > 0 else "below"
        lines += [
            "",
            f"calibration error {calibration.error:.3f}; the mean score is "
            f"{abs(calibration.bias):.3f} {side} the share of right predictions",
        ]
    return lines


def _notes(scored: ScoredSet) -> list[str]:
    """Notes on what was merged or left out."""
    notes = [f"{name}: merged from {', '.join(old)}" for name, old in scored.merged.items()]
    if scored.unscored:
        left = ", ".join(f"{name} ({n})" for name, n in scored.unscored.items())
        notes.append(f"not scored, since the model has no such class: {left}")
    if scored.partly_labelled or scored.num_unnamed:
        notes.append(
            f"{scored.partly_labelled} videos labelled in part, "
            f"{scored.num_unnamed} objects without a category: "
            f"{scored.unjudged} predictions are not scored"
        )
    return [visible(note) for note in notes]


def _block(numbers: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """A line of names, a line of scores below them, and an empty line."""
    return [
        "".join(f"{name:>9}" for name in names),
        "".join(f" {_cell(numbers.get(name, -1))}" for name in names),
        "",
    ]


def _cell(value: float) -> str:
    if isinstance(value, int):
        return f"{value:8}" if value >= 0 else f"{'-':>8}"
    return f"{'-':>8}" if value == -1 else f"{value:8.3f}"
