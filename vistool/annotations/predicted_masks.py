"""Read predictions in the formats of DAVIS and MOTS: label pictures or MOTS text files."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from vistool.annotations.dataset import AnnotatedTrack, DataSet
from vistool.annotations.davis import LABELS, RESOLUTION, frame_stems, sequence_tracks
from vistool.annotations.mots import IGNORED, LONGEST, PNG, TXT, MotsSequence, first_frames
from vistool.annotations.problems import Problem
from vistool.annotations.results_check import CheckedResults, check_results
from vistool.errors import DataError
from vistool.formats.limits import refuse_too_many_masks
from vistool.formats.results.files import RESULTS
from vistool.progress import OnProgress, silent
from vistool.structures import RLE, TrackSegmentation

FIXED_SCORE = 1.0  # of every track, since these formats have no scores


def read_predicted_masks(
    folder: Path, dataset: DataSet, *, on_progress: OnProgress = silent
) -> CheckedResults:
    """Read a folder of predictions on a DAVIS or MOTS set.

    DAVIS: `SEQUENCE/*.png` in the folder itself or in `Annotations/[480p/]`. MOTS: `SEQUENCE.txt`
    or `SEQUENCE/*.png` in the folder itself, `instances_txt/` or `instances/`; frames are numbered
    as in the data set. All tracks have the score 1.

    Raises: DataError if the folder has no predictions for any sequence of the data set.
    """
    places = _places(folder, {video.name for video in dataset.videos})
    if not places:
        raise DataError(
            f"{folder}: nothing in it is named after a sequence of {dataset.path}",
            hint=f"sequences: {', '.join(video.name for video in dataset.videos[:10])}",
        )
    problems: list[Problem] = []
    tracks: list[AnnotatedTrack] = []
    first = {} if dataset.class_agnostic else first_frames(dataset.path)
    known = {category.id for category in dataset.categories} - {IGNORED}
    without = []
    for done, video in enumerate(dataset.videos, start=1):
        place = places.get(video.name)
        if place is None:
            without.append(video.name)
        elif dataset.class_agnostic:
            stems = frame_stems(dataset, video)
            tracks += sequence_tracks(video, stems, place, problems.append)
        else:
            sequence = MotsSequence(place, first.get(video.name, 0), problems.append)
            tracks += sequence.tracks(video, known=known)
        on_progress("reading predictions", done, len(dataset.videos))
    if without:
        what = f"{len(without)} of {len(dataset.videos)} sequences have no prediction"
        what += f": {', '.join(without[:10])}"
        problems.append(Problem("warning", "no-result", str(folder), (), what))
    results = [
        TrackSegmentation(
            video_id=track.video_id,
            category_id=track.category_id,
            score=FIXED_SCORE,
            segmentations=list(track.segmentations),
        )
        for track in tracks
        if not track.is_crowd
    ]
    return CheckedResults(results, problems)


def with_predicted_lengths(dataset: DataSet, predictions: Path) -> DataSet:
    """The data set with each MOTS sequence at least as long as its longest prediction.

    MOTS labels without frames give the last labelled frame, which may not be the last of the
    sequence. Data sets of known length are returned unchanged.
    """
    known = dataset.class_agnostic or not dataset.path.is_dir()
    if known or any(video.file_names for video in dataset.videos):
        return dataset
    longest = _predicted_lengths(dataset, predictions)

    def padded(track: AnnotatedTrack) -> tuple[RLE | None, ...]:
        beyond = lengths[track.video_id] - len(track.segmentations)
        return (*track.segmentations, *[None] * beyond)

    lengths = {
        video.id: max(video.length, min(longest.get(video.id, 0), LONGEST))
        for video in dataset.videos
    }
    refuse_too_many_masks(sum(lengths[track.video_id] for track in dataset.tracks), predictions)
    videos = tuple(replace(video, length=lengths[video.id]) for video in dataset.videos)
    tracks = tuple(replace(t, segmentations=padded(t)) for t in dataset.tracks)
    return replace(dataset, videos=videos, tracks=tracks)


def _predicted_lengths(dataset: DataSet, predictions: Path) -> dict[int, int]:
    """Number of predicted frames by video id; errors in the files are ignored here."""
    lengths: dict[int, int] = defaultdict(int)
    if predictions.is_dir() and not (predictions / RESULTS).is_file():
        first = first_frames(dataset.path)
        places = _places(predictions, {video.name for video in dataset.videos})
        for video in dataset.videos:
            if video.name in places:
                begin = first.get(video.name, 0)
                sequence = MotsSequence(places[video.name], begin, lambda problem: None)
                lengths[video.id] = sequence.last - begin + 1
        return lengths
    for result in check_results(
        predictions / RESULTS if predictions.is_dir() else predictions
    ).results:
        lengths[result["video_id"]] = max(lengths[result["video_id"]], len(result["segmentations"]))
    return lengths


def _places(folder: Path, names: set[str]) -> dict[str, Path]:
    """The file or folder with predictions, by sequence name."""
    outer = [folder / TXT, folder / PNG, folder / LABELS / RESOLUTION, folder / LABELS, folder]
    for place in outer:
        if not place.is_dir():
            continue
        texts = {path.stem: path for path in place.glob("*.txt") if path.stem in names}
        if texts:
            return texts
        folders = {path.name: path for path in place.iterdir() if path.is_dir()}
        found = {name: path for name, path in folders.items() if name in names}
        if found:
            return found
    return {}
