"""Report: the results of an evaluation and the reasons behind them on one self-contained page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vistool.engine.report_charts import charts_of, curve_chart_name, seen_confusions
from vistool.engine.report_strips import MOST_STRIPS, StripMaker, TracksOfVideo
from vistool.evaluation.curves import LEVELS, PrecisionRecallCurves
from vistool.evaluation.diagnosis import Diagnosis, FalsePositive, TruthVerdict
from vistool.evaluation.error_kinds import ErrorKind
from vistool.formats.results import Category
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

# A table of numbers: row -> column -> value; -1 where there is nothing to measure.
Scores = Mapping[str, Mapping[str, float]]

MOST_ROWS = 200  # of a table on the page; the CSV files have all
HEADLINE = {  # what is shown large: group -> names
    "ytvis": ("AP", "AP50", "AP75", "AR10"),
    "hota": ("HOTA", "DetA", "AssA"),
    "davis": ("J_mean", "F_mean"),
}
MEANING = {
    ErrorKind.CLASS: "follows a track well, calls it something else",
    ErrorKind.SPATIAL: "on the right track, with wrong outlines",
    ErrorKind.TEMPORAL: "begins or ends at the wrong time, or has gaps",
    ErrorKind.IDENTITY: "a track split into several, or several merged",
    ErrorKind.DUPLICATE: "a second find of a track",
    ErrorKind.BOTH: "partly on a track, and calls it something else",
    ErrorKind.BACKGROUND: "on nothing that is labelled",
    ErrorKind.MISSED: "labelled tracks that no prediction is meant for",
}
STRIP_LEGEND = "White line: the labelled track. Tinted area: the prediction. Corner: the frame."


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What the report says of a video besides its errors."""

    name: str
    files: tuple[Path, ...] = ()  # its pictures; empty: not at hand
    scores: Mapping[str, float] = field(default_factory=dict)  # HOTA of this video, for example


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """All results of one evaluation, as plain values; nothing in it is computed again."""

    title: str
    facts: Mapping[str, str]  # what was scored: data set, model, numbers of videos and tracks...
    scores: Scores  # "ytvis", "hota", "davis" with their numbers, as `eval --json` prints them
    tables: Mapping[str, Scores]  # title -> table: by category, by occlusion, by length...
    categories: tuple[Category, ...]
    videos: Mapping[int, VideoFacts]  # by video id
    curves: PrecisionRecallCurves
    diagnosis: Diagnosis

    def category_name(self, category_id: int) -> str:
        """The name, or the id where it has none."""
        names = {category.id: category.name for category in self.categories}
        return names.get(category_id, str(category_id))

    def video_name(self, video_id: int) -> str:
        """The name, or the id where it has none."""
        return self.videos[video_id].name if video_id in self.videos else str(video_id)


def write_report(path: Path, report: EvaluationReport, *, tracks: TracksOfVideo) -> Path:
    """Write the page, with film strips of the worst tracks.

    Args: tracks: masks for the strips, asked for of the worst videos alone. They are drawn on the
        pictures that the report names, and without these on grey.
    """
    return write_page(path, _Builder(report, path.parent, tracks).page())


class _Builder:
    """Puts the page together."""

    def __init__(self, report: EvaluationReport, folder: Path, tracks: TracksOfVideo) -> None:
        self._report = report
        self._strips = StripMaker(report, folder, tracks)
        self._charts = {
            name: Picture(chart.svg(), "image/svg+xml", chart.description, chart.title)
            for name, chart in charts_of(report).items()
        }

    def page(self) -> Page:
        report = self._report
        # Before the table of videos, which links to them.
        missed, missed_strips = self._tracks_part()
        wrong, wrong_strips = self._predictions_part()
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
            Section("false", "Surest mistakes", wrong),
        ]
        return Page(report.title, [section for section in sections if section.blocks])

    def _overview(self) -> Iterator[Block]:
        report = self._report
        yield Facts(report.facts)
        yield Numbers(
            {
                name: _shown(report.scores[group][name])
                for group, names in HEADLINE.items()
                for name in names
                if name in report.scores.get(group, {})
            }
        )
        rows = [
            [group, name, _measured(value)]
            for group, numbers in report.scores.items()
            for name, value in numbers.items()
        ]
        yield Folded("All numbers", [Table("All numbers", ("measure", "number", "value"), rows)])

    def _breakdown(self) -> Iterator[Block]:
        breakdown = self._report.diagnosis.breakdown
        yield Paragraph(
            f"{breakdown.num_truth} labelled tracks, {breakdown.num_right} predictions that are "
            "right at IoU 0.5. Every other prediction, and every track that nothing was meant "
            "for, has one kind of error. The gains say how much higher AP would be if that kind "
            "alone were mended; they need not add up."
        )
        yield self._charts["error_breakdown"]
        columns = ("error", "what it is", "count", "AP50 then", "gain", "AP then", "gain")
        rows = [
            (
                str(m.kind),
                MEANING[m.kind],
                m.count,
                _measured(m.ap50),
                m.ap50_gain,
                _measured(m.ap),
                m.ap_gain,
            )
            for m in breakdown.kinds
        ]
        caption = f"As it is, AP50 is {_shown(breakdown.ap50)} and AP {_shown(breakdown.ap)}"
        yield Table(caption, columns, rows)

    def _tables(self) -> list[Block]:
        return [_score_table(title, table) for title, table in self._report.tables.items()]

    def _curves(self) -> Iterator[Block]:
        if "precision_recall" not in self._charts:
            return
        yield self._charts["precision_recall"]
        for name in (curve_chart_name(level) for level in LEVELS):
            yield self._charts[name]

    def _confusion(self) -> Iterator[Block]:
        confusion = self._report.diagnosis.confusion
        yield Paragraph(
            f"Predictions that score {confusion.min_score:g} or more, each with the free labelled "
            f"track that it overlaps most, by IoU {confusion.min_iou:g} or more."
        )
        if "confusion" not in self._charts:
            return
        yield self._charts["confusion"]
        rows, columns, counts = seen_confusions(self._report)
        table: list[list[Cell]] = [[n, *row] for n, row in zip(rows, counts, strict=True)]
        yield Folded("As a table", [Table("Labelled by row", ("labelled as", *columns), table)])

    def _calibration(self) -> Iterator[Block]:
        found = self._report.diagnosis.calibration
        if not found.count:
            return
        tendency = "too sure of itself" if found.bias > 0 else "not sure enough"
        yield Paragraph(
            f"Expected calibration error {found.error:.3f}, the largest of a bin "
            f"{found.largest_error:.3f}, over {found.count} predictions. On average the score is "
            f"{abs(found.bias):.3f} {'above' if found.bias > 0 else 'below'} the share that is "
            f"right at IoU 0.5: {tendency}."
        )
        yield self._charts["calibration"]
        columns = ("score from", "to", "tracks", "mean score", "share right")
        rows = [
            (b.low, b.high, b.count, b.mean_score, b.share_right) for b in found.bins if b.count
        ]
        yield Folded("As a table", [Table("By score", columns, rows)])

    def _videos(self, strips: Mapping[int, str]) -> Block:
        videos = self._report.diagnosis.videos[:MOST_ROWS]
        extra = list(
            dict.fromkeys(n for facts in self._report.videos.values() for n in facts.scores)
        )
        columns = (
            *("video", "AP lost", "AP50 lost", "labelled", "found", "false"),
            *extra,
            *("most of its errors", "pictures"),
        )
        rows: list[Sequence[Cell]] = []
        for video in videos:
            facts = self._report.videos.get(video.video_id, VideoFacts(str(video.video_id)))
            worst = max(video.kinds, key=lambda kind: video.kinds[kind])
            strip = strips.get(video.video_id)
            rows.append(
                (
                    Link(facts.name, f"#{strip}") if strip else facts.name,
                    *(video.ap_lost, video.ap50_lost),
                    *(video.num_truth, video.num_found, video.num_false),
                    *(_measured(facts.scores.get(name, -1)) for name in extra),
                    f"{worst} ({video.kinds[worst]})" if video.kinds[worst] else None,
                    self._strips.picture_link(video.video_id, 0),
                )
            )
        shown = f"The worst {len(rows)} of {len(self._report.diagnosis.videos)} videos"
        return Table(f"{shown}, by how much higher AP would be without their errors", columns, rows)

    def _tracks_part(self) -> tuple[list[Block], dict[int, str]]:
        """The worst labelled tracks, and the film strips there are, by video."""
        report = self._report
        worst = [t for t in report.diagnosis.tracks if t.kind is not None]
        strips = self._strips.strips("track", worst)
        columns = ("video", "track", "category", "frames", "error", "best IoU", "its score")
        rows: list[Sequence[Cell]] = [
            (
                self._strip_link(track.video_id, strips.get(i)),
                track.truth,
                report.category_name(track.category_id),
                track.num_frames,
                str(track.kind),
                track.iou,
                track.score if track.prediction is not None else None,
            )
            for i, track in enumerate(worst[:MOST_ROWS])
        ]
        if not rows:
            return [Paragraph("Every labelled track was found.")], {}
        caption = f"The worst of {len(worst)} labelled tracks that were not found at IoU 0.5"
        return self._with_strips(Table(caption, columns, rows), strips, worst)

    def _predictions_part(self) -> tuple[list[Block], dict[int, str]]:
        """The wrong predictions with the highest scores, and the film strips there are."""
        report = self._report
        worst = report.diagnosis.false_positives
        strips = self._strips.strips("false", worst)
        columns = ("video", "prediction", "category", "score", "error", "meant for", "IoU")
        rows: list[Sequence[Cell]] = [
            (
                self._strip_link(wrong.video_id, strips.get(i)),
                wrong.prediction,
                report.category_name(wrong.category_id),
                wrong.score,
                str(wrong.kind),
                None if wrong.truth is None else f"track {wrong.truth}",
                None if wrong.truth is None else wrong.iou,
            )
            for i, wrong in enumerate(worst[:MOST_ROWS])
        ]
        if not rows:
            return [Paragraph("No prediction is wrong.")], {}
        caption = "The wrong predictions with the highest scores"
        return self._with_strips(Table(caption, columns, rows), strips, worst)

    def _with_strips(
        self,
        table: Table,
        strips: Mapping[int, Picture],
        tracks: Sequence[TruthVerdict | FalsePositive],
    ) -> tuple[list[Block], dict[int, str]]:
        anchors: dict[int, str] = {}
        for i, strip in strips.items():
            anchors.setdefault(tracks[i].video_id, strip.anchor)
        legend = [Paragraph(STRIP_LEGEND)] if strips else []
        short = replace(table, rows=table.rows[:MOST_STRIPS])
        more = [Folded(f"All {len(table.rows)} rows", [table])]
        if len(table.rows) <= MOST_STRIPS:
            more = []
        return [short, *legend, *strips.values(), *more], anchors

    def _strip_link(self, video_id: int, strip: Picture | None) -> Cell:
        name = self._report.video_name(video_id)
        return Link(name, f"#{strip.anchor}") if strip else name


def _score_table(title: str, table: Scores) -> Table:
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    rows = [[name, *(_measured(row.get(c, -1)) for c in columns)] for name, row in table.items()]
    return Table(title, ("name", *columns), rows)


def _measured(value: float) -> float | None:
    """None for the -1 of a number that could not be measured."""
    return None if value == -1 else value


def _shown(value: float) -> str:
    return "-" if value == -1 else f"{value:.3f}"
