"""DAVIS folders (2016 and 2017): every frame has a label picture of object ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vistool.annotations.dataset import (
    AnnotatedTrack,
    AnnotatedVideo,
    DataSet,
    group_tracks,
)
from vistool.annotations.label_maps import (
    LabelPicture,
    folder_names,
    ids_of_colours,
    label_picture_or_reason,
    painted,
    palette,
    suffix_of,
    write_label_map,
)
from vistool.annotations.problems import Problem, ProblemCallback, refuse
from vistool.errors import DataError
from vistool.formats.files import atomic_path
from vistool.formats.pictures import displayed_size
from vistool.formats.results.files import Category
from vistool.formats.threads import in_threads
from vistool.formats.video.sources import IMAGE_SUFFIXES
from vistool.progress import OnProgress, silent
from vistool.structures import RLE

FRAMES, LABELS, RESOLUTION = "JPEGImages", "Annotations", "480p"
OBJECT = Category(id=1, name="object")
VOID = 255  # if there are other ids: pixels that are ignored in evaluation
MOST_OBJECTS = 254


def is_davis(folder: Path) -> bool:
    """Does a folder have DAVIS labels? The frames may be missing."""
    if not (folder / LABELS).is_dir():
        return False
    return (folder / FRAMES).is_dir() or any(map(_pictures, _level(folder / LABELS).iterdir()))


def read_davis(
    folder: Path,
    *,
    masks: bool = True,
    on_problem: ProblemCallback = refuse,
    on_progress: OnProgress = silent,
) -> DataSet:
    """Read `JPEGImages/[480p/]SEQUENCE/*.jpg` and `Annotations/[480p/]SEQUENCE/*.png`.

    Each pixel id is an object. In a sequence with no ids but 0 and 255 (as in 2016), 255 is the
    object; if there are other ids, 255 is void and becomes a crowd track. Without `JPEGImages`,
    every label picture is a frame. Video ids number the sequences by name, from 1. All objects have
    category 1, "object", because DAVIS has no categories.

    Args: as in `read_coco_json`.
    Raises: DataError if there is no sequence.
    """
    labels = _level(folder / LABELS)
    with_frames = (folder / FRAMES).is_dir()
    frames = _level(folder / FRAMES) if with_frames else labels
    names = sorted(path.name for path in frames.iterdir() if _pictures(path))
    if not names:
        raise DataError(f"{frames}: no folders with pictures in it")
    videos: list[AnnotatedVideo] = []
    tracks: list[AnnotatedTrack] = []
    for number, name in enumerate(names, start=1):
        files = _pictures(frames / name)
        try:
            video = AnnotatedVideo(
                id=number,
                name=name,
                size=displayed_size(files[0]),
                length=len(files),
                file_names=tuple(
                    file.relative_to(folder).as_posix() for file in files if with_frames
                ),
            )
        except DataError as error:
            on_problem(Problem("error", "unreadable-file", "", (), str(error)))
            continue
        videos.append(video)
        if masks:
            stems = [file.stem for file in files]
            tracks += sequence_tracks(video, stems, labels / name, on_problem, len(tracks) + 1)
        on_progress("reading labels", sum(video.length for video in videos), None)
    return DataSet(
        kind="davis",
        path=folder,
        frames=folder,
        categories=(OBJECT,),
        videos=tuple(videos),
        tracks=tuple(tracks),
    )


def write_davis(
    dataset: DataSet,
    folder: Path,
    on_progress: OnProgress = silent,
) -> tuple[dict[int, tuple[str, ...]], int]:
    """Write the label pictures and `ImageSets/2017/val.txt`, the list of all sequences.

    The objects of a video are numbered from 1 in the order of its tracks; crowds become void. A
    pixel has one id: where masks overlap, the smaller mask is kept.

    Returns: the file names of the frames by video id, relative to `folder`, and the number of
        pixels in more than one mask.
    Raises: DataError for a video with more than MOST_OBJECTS objects.
    """
    names = folder_names(dataset.videos)
    by_video = group_tracks(dataset.tracks)
    frames: dict[int, tuple[str, ...]] = {}
    colours, overlapping = palette(), 0
    done, total = 0, sum(video.length for video in dataset.videos)
    for video in dataset.videos:
        objects = [track for track in by_video[video.id] if not track.is_crowd]
        groups = [track for track in by_video[video.id] if track.is_crowd]
        if len(objects) > MOST_OBJECTS:
            raise DataError(
                f"{dataset.path}: video {video.id} has {len(objects)} objects, "
                f"a DAVIS picture at most {MOST_OBJECTS}"
            )
        place = folder / LABELS / RESOLUTION / names[video.id]
        for t in range(video.length):
            here = _here(objects, t)
            labels, both = painted(here, video.size)
            void, _ = painted([(VOID, mask) for _, mask in _here(groups, t)], video.size)
            write_label_map(place / f"{t:05}.png", np.where(labels, labels, void), colours)
            overlapping += both
        where = f"{FRAMES}/{RESOLUTION}/{names[video.id]}"
        frames[video.id] = tuple(f"{where}/{t:05}{suffix_of(video)}" for t in range(video.length))
        done += video.length
        on_progress("writing labels", done, total)
    with atomic_path(folder / "ImageSets" / "2017" / "val.txt") as temporary:
        temporary.write_text("".join(f"{name}\n" for name in names.values()), encoding="utf-8")
    return frames, overlapping


def frame_stems(dataset: DataSet, video: AnnotatedVideo) -> list[str]:
    """The file names of a video's frames without suffix, in frame order."""
    if video.file_names:
        return [Path(name).stem for name in video.file_names]
    return [file.stem for file in _pictures(_level(dataset.path / LABELS) / video.name)]


def _here(tracks: Sequence[AnnotatedTrack], frame: int) -> list[tuple[int, RLE]]:
    masks = [(i, track.segmentations[frame]) for i, track in enumerate(tracks, start=1)]
    return [(i, mask) for i, mask in masks if mask is not None]


def _level(folder: Path) -> Path:
    """The folder of the sequences: this one, or a resolution folder in it, 480p if it exists."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    if not inner or any(_pictures(path) for path in inner):
        return folder
    return next((path for path in inner if path.name == RESOLUTION), inner[0])


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def sequence_tracks(
    video: AnnotatedVideo,
    stems: Sequence[str],
    folder: Path,
    on_problem: ProblemCallback,
    first_id: int = 1,
) -> list[AnnotatedTrack]:
    """The objects in the label pictures of one sequence, by increasing pixel id.

    Void becomes a crowd track if there are other ids. Pictures of a wrong size, without a frame or
    not readable are reported and left out.

    Args: stems: file names of the frames, without suffix; first_id: the first track's id.
    """
    labelled = {file.stem: file for file in _pictures(folder)}
    there = [t for t, stem in enumerate(stems) if stem in labelled]
    if len(there) < len(stems):
        what = f"{len(stems) - len(there)} of {len(stems)} frames have no label picture"
        on_problem(Problem("warning", "no-annotation", str(folder), (), what))
    for stem in sorted(labelled.keys() - set(stems)):
        what = "a frame that the sequence does not have"
        on_problem(Problem("error", "no-frame", str(labelled[stem]), (), what))
    by_id: dict[int, dict[int, RLE]] = defaultdict(dict)
    files = [labelled[stems[t]] for t in there]
    for t, masks in zip(there, _masks_of_frames(files, video, on_problem), strict=True):
        for id_, mask in masks.items():
            by_id[id_][t] = mask
    return [
        AnnotatedTrack(
            video.id,
            OBJECT.id,
            tuple(masks.get(t) for t in range(video.length)),
            is_crowd=id_ == VOID and len(by_id) > 1,
            id=number,
        )
        for number, (id_, masks) in enumerate(sorted(by_id.items()), start=first_id)
    ]


def _masks_of_frames(
    files: Sequence[Path], video: AnnotatedVideo, on_problem: ProblemCallback
) -> Iterator[dict[int, RLE]]:
    """The masks of every picture by id; pictures with errors are reported and have none."""
    pictures = list(in_threads(label_picture_or_reason, files))
    whole = [(f, p) for f, p in zip(files, pictures, strict=True) if isinstance(p, LabelPicture)]
    try:
        ids = ids_of_colours(whole)
    except DataError as error:
        on_problem(Problem("error", "colours", "", (), str(error)))
        ids = {}
    for file, picture in zip(files, pictures, strict=True):
        if isinstance(picture, str):
            on_problem(Problem("error", "unreadable-file", "", (), picture))
            yield {}
        elif picture.size != video.size:
            size, own = video.size, picture.size
            what = f"is {own.width}x{own.height}, its video {size.width}x{size.height}"
            on_problem(Problem("error", "mask-size", str(file), (), what))
            yield {}
        else:
            yield picture.masks_by(ids)
