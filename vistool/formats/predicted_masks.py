"""Predictions in the forms of DAVIS and MOTS: pictures of object ids, or MOTS text files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vistool.errors import DataError
from vistool.formats.dataset import AnnotatedVideo, DataSet
from vistool.formats.davis import LABELS, RESOLUTION, VOID, frame_stems
from vistool.formats.label_maps import (
    LabelPicture,
    ids_of_colours,
    label_picture_or_reason,
    masks_of_file,
)
from vistool.formats.limits import refuse_too_many_masks
from vistool.formats.mots import (
    IGNORED,
    LONGEST,
    PER_CLASS,
    PNG,
    TXT,
    Labelled,
    by_frame,
    first_frames,
    is_number,
    labels_in_text,
)
from vistool.formats.problems import Place, Problem
from vistool.formats.results import RESULTS
from vistool.formats.results_check import check_results
from vistool.formats.rle import rle_fault
from vistool.formats.threads import in_threads
from vistool.progress import OnProgress, silent
from vistool.structures import RLE, TrackSegmentation

SURE = 1.0  # the score of a track in a format that has none


@dataclass(slots=True)
class PredictedMasks:
    """Tracks, and what is wrong with the files that they were read from."""

    results: list[TrackSegmentation] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def error(self, kind: str, file: Path, what: str, place: Place = ()) -> None:
        """Add what makes the predictions unfit."""
        self.problems.append(Problem("error", kind, str(file), place, what))

    def warn(self, kind: str, file: Path, what: str) -> None:
        """Add what is odd, but can be scored."""
        self.problems.append(Problem("warning", kind, str(file), (), what))


@dataclass(slots=True)
class _Tracks:
    """The masks of one sequence."""

    video: AnnotatedVideo
    masks: dict[int, dict[int, RLE]] = field(default_factory=lambda: defaultdict(dict))

    def results(self, category_of: Callable[[int], int]) -> list[TrackSegmentation]:
        return [
            TrackSegmentation(
                video_id=self.video.id,
                category_id=category_of(id_),
                score=SURE,
                segmentations=by_frame(masks, self.video.length),
            )
            for id_, masks in sorted(self.masks.items())
        ]


def read_predicted_masks(
    folder: Path, dataset: DataSet, *, on_progress: OnProgress = silent
) -> PredictedMasks:
    """Read a folder of predictions on a DAVIS or MOTS set.

    On DAVIS, `SEQUENCE/*.png`, as they are or below `Annotations/[480p/]`. On MOTS,
    `SEQUENCE.txt` or `SEQUENCE/*.png`, as they are or below `instances_txt/` or `instances/`;
    frames are numbered as in the set. All tracks have the score 1.

    Raises: DataError if nothing in the folder belongs to a sequence of the set.
    """
    places = _places(folder, {video.name for video in dataset.videos})
    if not places:
        raise DataError(
            f"{folder}: nothing in it is named after a sequence of {dataset.path}",
            hint=f"sequences: {', '.join(video.name for video in dataset.videos[:10])}",
        )
    found = PredictedMasks()
    read = _read_davis if dataset.class_agnostic else _read_mots
    first = {} if dataset.class_agnostic else first_frames(dataset.path)
    without = []
    for done, video in enumerate(dataset.videos, start=1):
        if video.name in places:
            read(places[video.name], dataset, video, first.get(video.name, 0), found)
        else:
            without.append(video.name)
        on_progress("reading predictions", done, len(dataset.videos))
    if without:
        what = f"{len(without)} of {len(dataset.videos)} sequences have no prediction"
        found.warn("no-result", folder, f"{what}: {', '.join(without[:10])}")
    return found


def with_predicted_lengths(dataset: DataSet, predictions: Path) -> DataSet:
    """The set with its sequences as long as the longest prediction, where only labels say it.

    MOTS text files without frames tell the last frame with a label, not the last of the sequence.
    """
    known = dataset.class_agnostic or not dataset.path.is_dir()
    if known or any(video.file_names for video in dataset.videos):
        return dataset
    longest = _predicted_lengths(dataset, predictions)
    videos = tuple(
        replace(video, length=max(video.length, min(longest.get(video.id, 0), LONGEST)))
        for video in dataset.videos
    )
    lengths = {video.id: video.length for video in videos}
    refuse_too_many_masks(sum(lengths[track.video_id] for track in dataset.tracks), predictions)
    tracks = tuple(
        replace(
            track,
            segmentations=(
                *track.segmentations,
                *[None] * (lengths[track.video_id] - len(track.segmentations)),
            ),
        )
        for track in dataset.tracks
    )
    return replace(dataset, videos=videos, tracks=tracks)


def _predicted_lengths(dataset: DataSet, predictions: Path) -> dict[int, int]:
    """Frames by video id, as far as the files can be read; their faults are told later."""
    lengths: dict[int, int] = defaultdict(int)
    if predictions.is_dir() and not (predictions / RESULTS).is_file():
        first = first_frames(dataset.path)
        places = _places(predictions, {video.name for video in dataset.videos})
        for video in dataset.videos:
            for number in _numbers(places.get(video.name)):
                lengths[video.id] = max(lengths[video.id], number - first.get(video.name, 0) + 1)
        return lengths
    for result in check_results(
        predictions / RESULTS if predictions.is_dir() else predictions
    ).results:
        lengths[result["video_id"]] = max(lengths[result["video_id"]], len(result["segmentations"]))
    return lengths


def _numbers(place: Path | None) -> Iterator[int]:
    """The frames of a sequence that are predicted."""
    if place is None:
        return
    if place.is_dir():
        words = [path.stem for path in place.glob("*.png")]
    else:
        text = place.read_text(encoding="utf-8", errors="replace")
        words = [line.split(maxsplit=1)[0] for line in text.splitlines() if line.strip()]
    yield from (int(word) for word in words if is_number(word))


def _places(folder: Path, names: set[str]) -> dict[str, Path]:
    """The file or folder of every sequence that has one."""
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


def _read_davis(
    place: Path, dataset: DataSet, video: AnnotatedVideo, _: int, found: PredictedMasks
) -> None:
    stems = {stem: t for t, stem in enumerate(frame_stems(dataset, video))}
    files = sorted(place.glob("*.png"))
    for file in files:
        if file.stem not in stems:
            found.error("no-frame", file, "a frame that the sequence does not have")
    known = [file for file in files if file.stem in stems]
    if len(known) < video.length:
        what = f"{video.length - len(known)} of {video.length} frames have no picture"
        found.warn("no-result", place, what)
    tracks = _Tracks(video)
    pictures = list(zip(known, in_threads(label_picture_or_reason, known), strict=True))
    try:
        ids = ids_of_colours((f, p) for f, p in pictures if isinstance(p, LabelPicture))
    except DataError as error:
        found.problems.append(Problem("error", "colours", "", (), str(error)))
        return
    for file, picture in pictures:
        masks = picture if isinstance(picture, str) else picture.masks_by(ids)
        for id_, mask in _fitting(file, masks, video, found).items():
            tracks.masks[id_][stems[file.stem]] = mask
    if set(tracks.masks) != {VOID}:  # alone it is the object, as in DAVIS 2016
        tracks.masks.pop(VOID, None)
    found.results += tracks.results(lambda _: dataset.categories[0].id)


def _read_mots(
    place: Path, dataset: DataSet, video: AnnotatedVideo, first: int, found: PredictedMasks
) -> None:
    tracks = _Tracks(video)
    category: dict[int, int] = {}
    known = {c.id for c in dataset.categories} - {IGNORED}
    read = _mots_pictures if place.is_dir() else _mots_lines
    for file, piece in read(place, video, found):
        t, id_, where = piece.frame - first, piece.id, _line(piece.line)
        if piece.category == IGNORED:
            continue
        if not 0 <= t < video.length:
            last = first + video.length - 1
            what = f"frame {piece.frame} is not among {first} to {last}"
            found.error("no-frame", file, what, where)
        elif piece.category not in known:
            what = f"class {piece.category} is none of {sorted(known)}"
            found.error("unknown-category", file, what, where)
        elif t in tracks.masks[id_]:
            what = f"track {id_} is on frame {piece.frame} twice"
            found.error("duplicate", file, what, where)
        elif category.setdefault(id_, piece.category) != piece.category:
            what = f"track {id_} is of class {piece.category} and {category[id_]}"
            found.error("category", file, what, where)
        else:
            tracks.masks[id_][t] = piece.rle
    tracks.masks = {id_: masks for id_, masks in tracks.masks.items() if masks}
    before = sum(len(result["segmentations"]) for result in found.results)
    refuse_too_many_masks(before + len(tracks.masks) * video.length, place)
    found.results += tracks.results(category.__getitem__)


def _mots_pictures(
    folder: Path, video: AnnotatedVideo, found: PredictedMasks
) -> Iterator[tuple[Path, Labelled]]:
    files = sorted(path for path in folder.glob("*.png") if is_number(path.stem))
    for file, masks in zip(files, in_threads(masks_of_file, files), strict=True):
        for id_, mask in _fitting(file, masks, video, found).items():
            yield file, Labelled(int(file.stem), id_, id_ // PER_CLASS, mask, 0)


def _mots_lines(
    file: Path, video: AnnotatedVideo, found: PredictedMasks
) -> Iterator[tuple[Path, Labelled]]:
    def misread(line: int, what: str) -> None:
        found.error("malformed-line", file, what, _line(line))

    for piece in labels_in_text(file, misread):
        fault = rle_fault(piece.rle, video.size)
        if fault:
            what = f"track {piece.id}: {fault}"
            found.error("malformed-mask", file, what, _line(piece.line))
        else:
            yield file, piece


def _line(number: int) -> Place:
    """Where in a file; nowhere in particular, if it is a picture."""
    return (("line", number),) if number else ()


def _fitting(
    file: Path, masks: dict[int, RLE] | str, video: AnnotatedVideo, found: PredictedMasks
) -> dict[int, RLE]:
    """The masks of a picture, if it can be read and has its video's size."""
    if isinstance(masks, str):
        found.problems.append(Problem("error", "unreadable-file", "", (), masks))
        return {}
    size = next((mask["size"] for mask in masks.values()), list(video.size))
    if size != list(video.size):
        what = f"is {size[1]}x{size[0]}, its video {video.size.width}x{video.size.height}"
        found.error("mask-size", file, what)
        return {}
    return masks
