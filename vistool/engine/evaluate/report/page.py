"""The report of an evaluation: scores and errors on one self-contained page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vistool.engine.evaluate.predictions import Predictions
from vistool.engine.evaluate.report.charts import charts_of, curve_chart_name, seen_confusions
from vistool.engine.evaluate.report.content import Measured
from vistool.engine.evaluate.report.strips import MOST_STRIPS, StripMaker
from vistool.metrics.curves import LEVELS
from vistool.metrics.errors.diagnosis import FalsePositive, TruthVerdict
from vistool.metrics.errors.kinds import ErrorKind
from vistool.metrics.overlaps import NOT_MEASURED
from vistool.rendering.page import (
    Block,
    Cell,
    Facts,
    Folded,
    Link,
    Numbers,
    Page,
    Paragraph,
    Picture,
    Section,
    Table,
    write_page,
)

# A table of scores: row -> column -> value; -1 where no labelled track enters.
Scores = Mapping[str, Mapping[str, float]]

MOST_ROWS = 200  # of a table on the page; the CSV files have all
HEADLINE = {  # the scores shown large: group -> names
    "ytvis": ("AP", "AP50", "AP75", "AR10"),
    "hota": ("HOTA", "DetA", "AssA"),
    "davis": ("J_mean", "F_mean"),
}
BY_CATEGORY = ("AP", "AP50", "AP75", "AR10", "HOTA", "AssA")
MEANING = {
    ErrorKind.CLASS: "overlaps a track well, with another class",
    ErrorKind.SPATIAL: "overlaps a track, with wrong outlines",
    ErrorKind.TEMPORAL: "begins or ends at the wrong time, or has gaps",
    ErrorKind.IDENTITY: "one track split into several, or several merged",
    ErrorKind.DUPLICATE: "repeats a higher-scoring prediction of the track",
    ErrorKind.BOTH: "overlaps a track in part, with another class",
    ErrorKind.BACKGROUND: "hardly overlaps any labelled track",
    ErrorKind.MISSED: "a labelled track that no prediction is assigned to",
}
STRIP_LEGEND = (
    "White line: the labelled track. Tinted area: the prediction. Corner: the frame number."
)


def write_report(path: Path, result: Measured) -> Path:
    """Write the page, with film strips of the worst tracks; these are grey without the frames."""
    return write_page(path, _Builder(result, path.parent).page())


class _Builder:
    """Builds the page."""

    def __init__(self, result: Measured, folder: Path) -> None:
        self._result = result
        self._strips = StripMaker(result, folder)
        self._charts = {
            name: Picture(chart.svg(), "image/svg+xml", chart.description, chart.title)
            for name, chart in charts_of(result).items()
        }

    def page(self) -> Page:
        # Strips first: the table of videos links to them.
        missed, missed_strips = self._missed()
        wrong, wrong_strips = self._wrong()
        strips = {**wrong_strips, **missed_strips}
        sections = [
            Section("overview", "Overview", list(self._overview())),
            Section("why", "Why AP is not 1", list(self._breakdown())),
            Section("tables", "Tables", self._tables()),
            Section("curves", "Precision and recall", list(self._curves())),
            Section("confusion", "Confusion", list(self._confusion())),
            Section("calibration", "Calibration", list(self._calibration())),
            Section("videos", "Worst videos", [self._videos(strips)]),
            Section("tracks", "Worst tracks", missed),
            Section("false", "Highest-scoring errors", wrong),
        ]
        title = f"{self._result.dataset.path.name}: {_subject(self._result.source)}"
        return Page(title, [section for section in sections if section.blocks])

    def _overview(self) -> Iterator[Block]:
        numbers = self._result.numbers()
        yield Facts(_facts(self._result))
        yield Numbers(
            {
                name: _shown(numbers[group][name])
                for group, names in HEADLINE.items()
                for name in names
                if group in numbers
            }
        )
        rows = [
            [group, name, _measured(float(value))]
            for group, values in numbers.items()
            for name, value in values.items()
        ]
        yield Folded("All numbers", [Table("All numbers", ("measure", "number", "value"), rows)])

    def _breakdown(self) -> Iterator[Block]:
        breakdown = self._result.diagnosis.breakdown
        yield Paragraph(
            f"{breakdown.num_truth} labelled tracks, {breakdown.num_right} predictions that are "
            "right at IoU 0.5. Every other prediction, and every track that no prediction is "
            "assigned to, has one kind of error. The gain of a kind is the increase in AP if only "
            "that kind is corrected (oracle); gains need not add up to 1 - AP."
        )
        yield self._charts["error_breakdown"]
        columns = ("error", "meaning", "count", "AP50 corrected", "gain", "AP corrected", "gain")
        rows = [
            (
                str(oracle.kind),
                MEANING[oracle.kind],
                oracle.count,
                _measured(oracle.ap50),
                oracle.ap50_gain,
                _measured(oracle.ap),
                oracle.ap_gain,
            )
            for oracle in breakdown.kinds
        ]
        caption = f"Uncorrected, AP50 is {_shown(breakdown.ap50)} and AP {_shown(breakdown.ap)}"
        yield Table(caption, columns, rows)

    def _tables(self) -> list[Block]:
        groups = {f"By {kind}": table for kind, table in self._result.breakdown.items()}
        tables = {"By category": _categories(self._result), **groups}
        return [_score_table(title, table) for title, table in tables.items()]

    def _curves(self) -> Iterator[Block]:
        if "precision_recall" not in self._charts:
            return
        yield self._charts["precision_recall"]
        for name in (curve_chart_name(level) for level in LEVELS):
            yield self._charts[name]

    def _confusion(self) -> Iterator[Block]:
        confusion = self._result.diagnosis.confusion
        yield Paragraph(
            f"Predictions with a score of at least {confusion.min_score:g}. Each is matched to the "
            f"free labelled track with the highest IoU, if that is at least {confusion.min_iou:g}."
        )
        if "confusion" not in self._charts:
            return
        yield self._charts["confusion"]
        rows, columns, counts = seen_confusions(self._result)
        table: list[list[Cell]] = [[n, *row] for n, row in zip(rows, counts, strict=True)]
        yield Folded("As a table", [Table("Labelled by row", ("labelled as", *columns), table)])

    def _calibration(self) -> Iterator[Block]:
        result = self._result.diagnosis.calibration
        if not result.count:
            return
        tendency = "overconfident" if result.bias > 0 else "underconfident"
        yield Paragraph(
            f"Expected calibration error {result.error:.3f}, largest error of a bin "
            f"{result.largest_error:.3f}, over {result.count} predictions. The mean score is "
            f"{abs(result.bias):.3f} {'above' if result.bias > 0 else 'below'} the share that is "
            f"right at IoU 0.5: the model is {tendency}."
        )
        yield self._charts["calibration"]
        columns = ("score from", "to", "tracks", "mean score", "share right")
        rows = [
            (b.low, b.high, b.count, b.mean_score, b.share_right) for b in result.bins if b.count
        ]
        yield Folded("As a table", [Table("By score", columns, rows)])

    def _videos(self, strips: Mapping[int, str]) -> Block:
        videos = self._result.diagnosis.videos[:MOST_ROWS]
        hota = {i: counts.summary() for i, counts in self._result.hota_counts.by_video().items()}
        extra = list(next(iter(hota.values()), ()))
        columns = (
            *("video", "AP lost", "AP50 lost", "labelled", "found", "false"),
            *extra,
            *("most frequent error", "first frame"),
        )
        rows: list[Sequence[Cell]] = []
        for video in videos:
            worst = max(video.kinds, key=lambda kind: video.kinds[kind])
            tracking = hota.get(video.video_id, {})
            rows.append(
                (
                    self._link(video.video_id, strips.get(video.video_id)),
                    *(video.ap_lost, video.ap50_lost),
                    *(video.num_truth, video.num_found, video.num_false),
                    *(_measured(tracking.get(name, NOT_MEASURED)) for name in extra),
                    f"{worst} ({video.kinds[worst]})" if video.kinds[worst] else None,
                    self._strips.picture_link(video.video_id, 0),
                )
            )
        shown = f"The worst {len(rows)} of {len(self._result.diagnosis.videos)} videos"
        return Table(f"{shown}, by the AP that their errors cost", columns, rows)

    def _missed(self) -> tuple[list[Block], dict[int, str]]:
        """The worst labelled tracks, and the anchor of the first film strip of every video."""
        worst = [track for track in self._result.diagnosis.tracks if track.kind is not None]
        if not worst:
            return [Paragraph("Every labelled track was found.")], {}
        rows: list[Sequence[Cell]] = [
            (
                track.truth,
                self._result.scored.categories[track.category_id],
                track.num_frames,
                str(track.kind),
                track.iou,
                track.score if track.prediction is not None else None,
            )
            for track in worst[:MOST_ROWS]
        ]
        columns = ("track", "category", "frames", "error", "best IoU", "its score")
        caption = f"The worst of {len(worst)} labelled tracks that were not found at IoU 0.5"
        return self._worst("track", worst, Table(caption, columns, rows))

    def _wrong(self) -> tuple[list[Block], dict[int, str]]:
        """The highest-scoring wrong predictions; anchors as in `_missed`."""
        worst = self._result.diagnosis.false_positives
        if not worst:
            return [Paragraph("No prediction is wrong.")], {}
        rows: list[Sequence[Cell]] = [
            (
                wrong.prediction,
                self._result.scored.categories[wrong.category_id],
                wrong.score,
                str(wrong.kind),
                None if wrong.truth is None else f"track {wrong.truth}",
                None if wrong.truth is None else wrong.iou,
            )
            for wrong in worst[:MOST_ROWS]
        ]
        columns = ("prediction", "category", "score", "error", "assigned to", "IoU")
        caption = "The wrong predictions with the highest scores"
        return self._worst("false", worst, Table(caption, columns, rows))

    def _worst(
        self, kind: str, tracks: Sequence[TruthVerdict | FalsePositive], table: Table
    ) -> tuple[list[Block], dict[int, str]]:
        """A table of tracks and the film strips of the first ones; anchors as in `_missed`."""
        strips = self._strips.strips(kind, tracks)
        anchors: dict[int, str] = {}
        for i, strip in strips.items():
            anchors.setdefault(tracks[i].video_id, strip.anchor)
        rows = [
            (self._link(tracks[i].video_id, strips[i].anchor if i in strips else None), *row)
            for i, row in enumerate(table.rows)
        ]
        whole = replace(table, columns=("video", *table.columns), rows=rows)
        legend = [Paragraph(STRIP_LEGEND)] if strips else []
        more = [Folded(f"All {len(rows)} rows", [whole])] if len(rows) > MOST_STRIPS else []
        return [replace(whole, rows=rows[:MOST_STRIPS]), *legend, *strips.values(), *more], anchors

    def _link(self, video_id: int, strip: str | None) -> Cell:
        name = self._result.video_name(video_id)
        return Link(name, f"#{strip}") if strip else name


def _subject(source: Predictions) -> str:
    return source.run.model if source.run else source.path.name


def _facts(result: Measured) -> dict[str, str]:
    """Inputs and counts, and what was left out."""
    scored, source = result.scored, result.source
    facts = {
        "Data set": str(result.dataset.path),
        "Predictions": str(source.path),
        "Videos": f"{len(scored.videos)}, {scored.num_frames} frames",
        "Labelled tracks": str(scored.num_truth),
        "Predicted tracks": str(scored.num_predictions),
    }
    if source.run:
        facts["Model"] = f"{source.run.model} ({source.run.sha256[:12]})"
    for name, members in scored.merged.items():
        facts[f"As {name}"] = ", ".join(members)
    if scored.unscored:
        left = [f"{name} ({number})" for name, number in scored.unscored.items()]
        facts["Not scored"] = ", ".join(left)
    if scored.unjudged:
        facts["Left out"] = f"{scored.unjudged} predictions that may show unlabelled objects"
    return facts


def _categories(result: Measured) -> Scores:
    return {
        row["name"]: {
            "labelled": row["truth"],
            "predicted": row["predictions"],
            **{name: row.get(name, NOT_MEASURED) for name in BY_CATEGORY},
        }
        for row in result.by_category()
    }


def _score_table(title: str, table: Scores) -> Table:
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    rows = [
        [name, *(_measured(row.get(c, NOT_MEASURED)) for c in columns)]
        for name, row in table.items()
    ]
    return Table(title, ("name", *columns), rows)


def _measured(value: float) -> float | None:
    """None instead of -1, which stands for a score without labelled tracks."""
    return None if value == NOT_MEASURED else value


def _shown(value: float) -> str:
    return "-" if value == NOT_MEASURED else f"{value:.3f}"
