"""The scores of an evaluation, as the page, the files and the Python API use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from vistool.annotations.dataset import AnnotatedVideo, DataSet, frame_file
from vistool.engine.evaluate.predictions import Predictions
from vistool.engine.evaluate.scored_set import ScoredSet
from vistool.errors import DataError
from vistool.metrics.ap import VideoAP, VideoOutcome
from vistool.metrics.breakdown import Breakdown
from vistool.metrics.curves import PrecisionRecallCurves, precision_recall_curves
from vistool.metrics.davis import DavisResult
from vistool.metrics.errors.diagnosis import Diagnosis
from vistool.metrics.hota import HotaCounts, hota_summary
from vistool.metrics.identity import IdentityCounts
from vistool.metrics.overlaps import NOT_MEASURED
from vistool.metrics.tracking_measures import TrackingResult


class YtvisNumbers(msgspec.Struct, frozen=True):
    """Average precision and recall over tracks, as the YouTube-VIS evaluator defines them."""

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float


class HotaNumbers(msgspec.Struct, frozen=True):
    """HOTA and its parts, averaged over the categories."""

    HOTA: float
    DetA: float
    AssA: float
    LocA: float


class DavisNumbers(msgspec.Struct, frozen=True, rename={"JF_mean": "J&F_mean"}):
    """J and F of DAVIS, averaged over the labelled objects."""

    JF_mean: float
    J_mean: float
    J_recall: float
    J_decay: float
    F_mean: float
    F_recall: float
    F_decay: float


class IdentityNumbers(msgspec.Struct, frozen=True):
    """Identity scores: fractions are means over the categories, counts are sums."""

    IDF1: float
    IDP: float
    IDR: float
    MOTA: float  # negative if there are more errors than labelled masks
    MOTP: float
    num_labelled: int  # masks
    num_predicted: int  # masks
    switches: int
    fragmentations: int
    num_tracks: int
    mostly_tracked: int  # tracks
    mostly_lost: int  # tracks


RATES, COUNTED = IdentityNumbers.__struct_fields__[:5], IdentityNumbers.__struct_fields__[5:]


@dataclass(frozen=True, kw_only=True, repr=False)
class Measured:
    """All results of an evaluation. Scores are fractions; -1 means that no labels enter them."""

    dataset: DataSet
    source: Predictions  # all, scored or not
    scored: ScoredSet
    ap: VideoAP
    outcomes: Sequence[VideoOutcome]  # matches that AP is computed from, by ascending video id
    hota_counts: TrackingResult[HotaCounts]
    identity_counts: TrackingResult[IdentityCounts]
    objects: DavisResult | None  # None: J and F were not computed
    breakdown: Breakdown
    diagnosis: Diagnosis
    seconds: Mapping[str, float]  # by stage

    @cached_property
    def ytvis(self) -> YtvisNumbers:
        """The twelve numbers of YouTube-VIS."""
        return YtvisNumbers(**self.ap.summary())

    @cached_property
    def hota(self) -> HotaNumbers:
        """HOTA, DetA, AssA and LocA."""
        return HotaNumbers(**hota_summary(self.hota_counts))

    @cached_property
    def davis(self) -> DavisNumbers | None:
        """J and F; None if they were not computed."""
        if self.objects is None:
            return None
        numbers = self.objects.summary()
        return DavisNumbers(numbers.pop("J&F_mean"), **numbers)

    @cached_property
    def identity(self) -> IdentityNumbers:
        """IDF1, identity switches and the CLEAR MOT counts."""
        total = self.identity_counts.total()
        counts = {name: getattr(total, name) if total else 0 for name in COUNTED}
        rates = dict.fromkeys(RATES, NOT_MEASURED) | self.identity_counts.class_averaged()
        return msgspec.convert({**rates, **counts}, IdentityNumbers)

    @cached_property
    def curves(self) -> PrecisionRecallCurves:
        """Precision-recall curves of every category, and their mean."""
        return precision_recall_curves(self.ap)

    @property
    def failed(self) -> Mapping[int, str]:
        """Videos on which the model could not be run: id -> reason. They are not scored."""
        return self.source.failed

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the predictions."""
        return self.source.warnings

    def numbers(self) -> dict[str, dict[str, float]]:
        """All overall scores: `ytvis`, `hota`, `davis` if it was computed, and `identity`."""
        measures = ("ytvis", "hota", "davis", "identity")
        return {
            name: msgspec.to_builtins(numbers)
            for name in measures
            if (numbers := getattr(self, name)) is not None
        }

    def by_category(self) -> list[dict[str, Any]]:
        """One row for every scored category; HOTA only for categories with labelled tracks."""
        ap, hota = self.ap.by_category(), self.hota_counts.by_category()
        truth = [t.category_id for tracks in self.scored.truth.values() for t in tracks]
        predicted = [p["category_id"] for ps in self.scored.predictions.values() for p in ps]
        rows = []
        for number, name in sorted(self.scored.categories.items()):
            row = {
                "id": number,
                "name": name,
                "truth": truth.count(number),
                "predictions": predicted.count(number),
                **ap[number],
            }
            if number in hota and hota[number].num_labelled:
                summary = hota[number].summary()
                row |= {name: summary[name] for name in HotaNumbers.__struct_fields__}
            rows.append(row)
        return rows

    def as_json(self) -> dict[str, Any]:
        """The content of metrics.json."""
        scored = self.scored
        return {
            **self.numbers(),
            "categories": self.by_category(),
            "breakdown": self.breakdown,
            "errors": msgspec.to_builtins(self.diagnosis.breakdown),
            "counts": {
                "videos": len(scored.videos),
                "frames": scored.num_frames,
                "categories": len(scored.categories),
                "truth_tracks": scored.num_truth,
                "crowds": sum(t.is_crowd for tracks in scored.truth.values() for t in tracks),
                "predicted_tracks": scored.num_predictions,
            },
            "labels": {  # what was merged or left out of the scores
                "merged_categories": scored.merged,
                "unscored_categories": scored.unscored,
                "partly_labelled_videos": scored.partly_labelled,
                "unnamed_objects_ignored": scored.num_unnamed,
                "predictions_not_judged": scored.unjudged,
            },
            "inputs": self.inputs(),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "versions": {"vistool": version("vistool")},
        }

    def inputs(self) -> dict[str, Any]:
        """Data set, predictions and model, with checksums."""
        dataset = {"path": str(self.dataset.path), "sha256": self.source.data}
        return {"dataset": dataset, **self.source.source()}

    def video_name(self, video_id: int) -> str:
        """The name of a video in the data set."""
        return self._videos[video_id].name

    def picture(self, video_id: int, frame: int) -> Path | None:
        """The file of a frame; None if there is none."""
        names = self._videos[video_id].file_names
        if frame >= len(names):
            return None
        try:
            file = frame_file(self.dataset.frames, names[frame])
        except DataError:  # a name that leads out of the folder; scores need no pictures
            return None
        return file if file.is_file() else None

    def pictures(self, video_id: int) -> tuple[Path, ...]:
        """The files of all frames; none if one of them is not in the data set's folder."""
        try:
            return tuple(
                frame_file(self.dataset.frames, name) for name in self._videos[video_id].file_names
            )
        except DataError:
            return ()

    @cached_property
    def _videos(self) -> Mapping[int, AnnotatedVideo]:
        return {video.id: video for video in self.dataset.videos}
