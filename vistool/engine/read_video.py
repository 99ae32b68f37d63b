"""Saved results back to a tracked video: results.json with its meta.json, or from anywhere else."""

from __future__ import annotations

import contextlib
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from vistool.annotations.dataset import DataSet
from vistool.annotations.read import read_dataset
from vistool.engine.tracked_video import TrackedVideo
from vistool.errors import DataError, UsageError
from vistool.formats.files import path_as_text, text_as_path
from vistool.formats.masks.rle import area
from vistool.formats.results.files import (
    META,
    RESULTS,
    Category,
    VideoMeta,
    iterate_results,
    read_meta_and_ids,
    video_ids,
)
from vistool.formats.results.spool import SegmentationSpool
from vistool.formats.video.reader import VideoReader, is_video_file, open_video
from vistool.structures import RLE, Track


def load(
    results: str | Path,
    *,
    source: str | Path | None = None,
    video: int | str | None = None,
    annotations: str | Path | None = None,
) -> TrackedVideo:
    """Read the saved tracks of a video; the masks lie in the system's temporary folder meanwhile.

    >>> with vistool.predict("squares.mp4", model=model) as video:
    ...     folder = video.save("results", overlay=False, exist_ok=True)
    >>> with vistool.load(folder) as again:
    ...     again
    <TrackedVideo squares.mp4: 14 frames, 160x96, 3 tracks>

    Without a meta.json beside them, tracks are numbered in the order of the file and classes named
    by their ids; the results must cover the whole source, and time stamps are those of a constant
    rate.

    Args:
        results: results.json in the YouTube-VIS format, or the folder that holds it.
        source: video file or folder of frames; by default where meta.json says that it was, or
            beside the results. It is opened when a picture is wanted.
        video: which one's results, if there are those of several: its id, or its name in
            `annotations`.
        annotations: data set whose names classes and videos have.

    Raises: UsageError, DataError.
    """
    results = Path(results)
    results = results / RESULTS if results.is_dir() else results
    source = None if source is None else Path(source)
    meta = results.with_name(META)
    dataset = read_dataset(Path(annotations), masks=False) if annotations else None
    video_id = _video_id(results, video, dataset)
    with contextlib.ExitStack() as stack:
        ids: list[int] | None = None
        if meta.exists():
            about, ids = read_meta_and_ids(meta)
        else:
            about = _facts_without_meta(results, video_id, source)
        if source is not None:
            about = msgspec.structs.replace(about, source=path_as_text(source.absolute()))
        if dataset is not None:
            about = msgspec.structs.replace(about, categories=list(dataset.categories))
        spool = stack.enter_context(SegmentationSpool(Path(tempfile.gettempdir())))
        tracks = list(_spooled(results, video_id, about, ids, spool))
        if not about.categories:
            about = msgspec.structs.replace(about, categories=_categories_of(tracks))
        open_source = partial(_open_source, source, results, about)
        return TrackedVideo(
            about, tracks, spool, open_source, name=str(results), resources=stack.pop_all()
        )


def _spooled(
    results: Path,
    video_id: int | None,
    meta: VideoMeta,
    ids: Sequence[int] | None,
    spool: SegmentationSpool,
) -> Iterator[tuple[Track, int]]:
    """The tracks with their numbers in the spool, which gets their masks.

    Raises: DataError if an entry does not fit `meta` or the others.
    """
    names = {category.id: category.name for category in meta.categories}
    count = 0
    for count, entry in enumerate(iterate_results(results, video_id=video_id), start=1):
        _check(results, count - 1, entry["segmentations"], meta)
        if ids is not None and count > len(ids):
            raise _not_of_one_run(results, "more", ids)
        frames = array("I")
        for position, mask in enumerate(entry["segmentations"]):
            if mask is not None and area(mask):
                spool.add(position, count, mask)
                frames.append(position)
        category = entry["category_id"]
        name = names.get(category, f"class {category}")
        id_ = count if ids is None else ids[count - 1]
        yield Track(id_, category, name, entry["score"], frames), count
    if ids is not None and count < len(ids):
        raise _not_of_one_run(results, f"{count}", ids)


def _categories_of(tracks: Sequence[tuple[Track, int]]) -> list[Category]:
    names = {track.class_id: track.class_name for track, _ in tracks}
    return [Category(id=id_, name=name) for id_, name in sorted(names.items())]


def _check(results: Path, index: int, masks: Sequence[RLE | None], meta: VideoMeta) -> None:
    """Raises: DataError if an entry does not fit the video; its masks have one size."""
    if len(masks) != meta.length:
        raise DataError(
            f"{results}: result {index} has {len(masks)} segmentations, expected {meta.length}"
        )
    size = next((mask["size"] for mask in masks if mask), [meta.height, meta.width])
    if size != [meta.height, meta.width]:
        raise DataError(
            f"{results}: its masks are {size[1]}x{size[0]}, "
            f"the source is {meta.width}x{meta.height}",
            hint="are these the results of this video?",
        )


def _not_of_one_run(results: Path, found: str, ids: Sequence[int]) -> DataError:
    return DataError(
        f"{results}: {META} describes {len(ids)} results, but the file has {found}",
        hint="are both files of the same run?",
    )


def _facts_without_meta(results: Path, video_id: int | None, source: Path | None) -> VideoMeta:
    """The facts about a video that results without meta.json contain."""
    if source is None:
        raise DataError(
            f"{results}: no {META} beside it, which says what video and classes they are of",
            hint="`vistool render` draws results without it",
        )
    first = next(iterate_results(results, video_id=video_id), None)
    with open_video(source) as reader:
        length = len(first["segmentations"]) if first else sum(1 for _ in reader.frames())
        return VideoMeta(
            source=path_as_text(source.absolute()),
            video_id=video_id or 1,
            width=reader.size.width,
            height=reader.size.height,
            length=length,
            first_frame=0,
            times=[frame / reader.fps for frame in range(length)],
            frame_stride=1,
            rotation=reader.rotation,
            fps=reader.fps,
            categories=[],
            model={},
            settings={},
            versions={},
        )


def _open_source(source: Path | None, results: Path, meta: VideoMeta) -> VideoReader:
    """Open the video of some results. Raises: DataError if it is not where it was."""
    if source is not None:
        return _open_as_before(source, meta)
    stated = text_as_path(meta.source)
    beside = results.parent / stated.name
    # A relative place would be another one in every working directory.
    for place in (stated, beside) if stated.is_absolute() else (beside,):
        if stated.name and place.exists():
            return _open_as_before(place, meta)
    raise DataError(
        f"{meta.source}: the video of {results} is not there",
        hint="say where it is: --source VIDEO; from Python, source=",
    )


def _open_as_before(source: Path, meta: VideoMeta) -> VideoReader:
    """Read a source the way in which it was predicted; a copy may be of another form."""
    if is_video_file(source):
        is_same = source.absolute() == text_as_path(meta.source)
        return open_video(source, stream=meta.stream if is_same else None)
    if meta.files is None:
        return open_video(source)
    return open_video(source, fps=meta.fps, value_range=meta.value_range)


def _video_id(results: Path, wanted: int | str | None, dataset: DataSet | None) -> int | None:
    """The video to read; None if the file has no results. Raises: DataError, UsageError."""
    there = video_ids(results)
    some = ", ".join(map(str, there[:10])) + (", ..." if len(there) > 10 else "")
    if wanted is None:
        if len(there) > 1:
            raise DataError(
                f"{results}: holds results of several videos, {some}",
                hint=f"say which one is the source's: --video {there[0]}",
            )
        return there[0] if there else None
    ids = {video.name: video.id for video in dataset.videos} if dataset else {}
    ids |= {str(video_id): video_id for video_id in there}
    video_id = ids.get(str(wanted))
    if video_id not in there:
        raise UsageError(
            f"{results}: no results of video {str(wanted)!r} in it",
            hint=f"it has those of {some or 'none'}; names are known by --annotations",
        )
    return video_id
