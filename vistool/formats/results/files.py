"""Read and write the files of a predicted video: results.json and meta.json."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vistool.errors import DataError
from vistool.formats.files import NOT_TAKEN, atomic_path, encode_json, read_file, read_json
from vistool.formats.masks.rle import validate_rle
from vistool.formats.replacing import settle
from vistool.structures import RLE, Size, Track, TrackSegmentation

RESULTS, META, OVERLAY = "results.json", "meta.json", "overlay.mp4"  # in a run folder

T = TypeVar("T")


def write_results(path: Path, results: Iterable[TrackSegmentation]) -> int:
    """Write a YouTube-VIS results file, one entry at a time. Returns: the number of entries."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(b"[")
        for result in results:
            file.write(b",\n" if count else b"\n")
            file.write(msgspec.json.encode(result))
            count += 1
        file.write(b"\n]\n")
    return count


def read_results(path: Path) -> list[TrackSegmentation]:
    """Read a YouTube-VIS results file; every mask is checked and safe to decode.

    Raises: DataError with the file, the entry and the reason.
    """
    return list(iterate_results(path))


def iterate_results(path: Path, *, video_id: int | None = None) -> Iterator[TrackSegmentation]:
    """Read a results file one entry at a time; memory holds the file's bytes and one entry.

    Args: video_id: skip entries of other videos, without a check of their masks; None: read all.
    Raises: DataError, as `read_results`.
    """
    settle(path.parent)
    for index, raw in enumerate(_entries(path)):
        where = f"{path}: result {index}"
        if video_id is not None and _decode_entry(raw, _OfVideo, where).video_id != video_id:
            continue
        result = _decode_entry(raw, TrackSegmentation, where)
        if not math.isfinite(result["score"]):
            raise DataError(f"{where}: its score is {result['score']}")
        _check_masks(result["segmentations"], where)
        yield result


def _entries(path: Path) -> list[msgspec.Raw]:
    """The entries of a results file. Raises: DataError that knows an annotation file."""
    try:
        return read_json(path, list[msgspec.Raw])
    except DataError:
        if not read_file(path).lstrip().startswith(b"{"):
            raise
    raise DataError(
        f"{path}: an object, not a list of results",
        hint="an annotation file? Results are what `vistool predict` and `vistool eval` write",
    )


class _OfVideo(msgspec.Struct):
    video_id: int


def video_ids(path: Path) -> list[int]:
    """The ids of the videos with entries in a results file, increasing. Raises: DataError."""
    settle(path.parent)
    entries = enumerate(_entries(path))
    return sorted(
        {_decode_entry(raw, _OfVideo, f"{path}: result {n}").video_id for n, raw in entries}
    )


def _decode_entry(raw: msgspec.Raw, kind: type[T], where: str) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except NOT_TAKEN as error:
        hint = "`vistool data check --results FILE` lists all its problems"
        raise DataError(f"{where}: {error}", hint=hint) from None


def _check_masks(masks: list[RLE | None], where: str) -> None:
    """Raises: DataError if a mask is malformed, or its size differs from the first mask's."""
    size = None
    for frame, mask in enumerate(masks):
        if mask is None:
            continue
        place = f"{where}, frame {frame}"
        if len(mask["size"]) != 2:
            raise DataError(f"{place}: size {mask['size']} is not [height, width]")
        size = size or Size(*mask["size"])
        validate_rle(mask, size, place)


class Category(msgspec.Struct, frozen=True, kw_only=True):
    """A class and its id in results.json."""

    id: int
    name: str


class VideoMeta(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of meta.json without its tracks: the video, the model and the settings."""

    source: str  # absolute path, from `path_as_text`
    video_id: int
    width: int
    height: int
    length: int  # decoded frames in the selected range
    # False: interrupted, or an incomplete source; the results cover the frames before that
    complete: bool = True
    first_frame: int  # index of the first of these frames in the source
    times: list[float]  # seconds from the first frame of the source, one per frame
    frame_stride: int  # the model processed every n-th frame
    rotation: int  # degrees
    fps: float  # nominal
    stream: int | None = None  # the number of the one that was read, if there are several
    # For pictures with more than 8 bits: the values that became black and white.
    value_range: tuple[float, float] | None = None
    # For frames stored as pictures: the file of each, or file#page with pages from 1.
    files: list[str] | None = None
    categories: list[Category]
    model: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]


class _TrackLine(msgspec.Struct, frozen=True, kw_only=True):
    """A track in meta.json, for readers without results.json."""

    track_id: int
    category_id: int
    score: float
    first_frame: int  # position in `segmentations`
    last_frame: int


class _MetaFile(VideoMeta, frozen=True, kw_only=True):
    """The complete contents of meta.json."""

    tracks: list[_TrackLine]  # in the order of results.json


def write_meta(path: Path, meta: VideoMeta, tracks: Iterable[Track]) -> None:
    """Write meta.json. Args: tracks: in the order of results.json, each with at least one frame."""
    lines = [
        _TrackLine(
            track_id=track.id,
            category_id=track.class_id,
            score=track.score,
            first_frame=track.frames[0],
            last_frame=track.frames[-1],
        )
        for track in tracks
    ]
    with atomic_path(path) as temporary:
        whole = _MetaFile(**msgspec.structs.asdict(meta), tracks=lines)
        temporary.write_bytes(encode_json(whole) + b"\n")


def read_meta(path: Path) -> VideoMeta:
    """Read meta.json. Raises: DataError if it is damaged or inconsistent."""
    return read_meta_and_ids(path)[0]


def read_meta_and_ids(path: Path) -> tuple[VideoMeta, list[int]]:
    """Read meta.json and its track ids, in the order of results.json. Raises: DataError."""
    settle(path.parent)
    whole = read_json(path, _MetaFile)
    if len(whole.times) != whole.length:
        raise DataError(f"{path}: {len(whole.times)} time stamps for {whole.length} frames")
    if whole.files is not None and len(whole.files) != whole.length:
        raise DataError(f"{path}: {len(whole.files)} files for {whole.length} frames")
    if any(later <= time for time, later in itertools.pairwise(whole.times)):
        raise DataError(f"{path}: its time stamps do not increase")
    if min(whole.width, whole.height, whole.frame_stride) < 1 or (
        min(whole.first_frame, whole.fps) < 0
    ):
        raise DataError(
            f"{path}: impossible values: {whole.width}x{whole.height} pixels, frame stride "
            f"{whole.frame_stride}, first frame {whole.first_frame}, "
            f"{whole.fps:g} frames per second"
        )
    for index, track in enumerate(whole.tracks):
        if not 0 <= track.first_frame <= track.last_frame < whole.length:
            raise DataError(
                f"{path}: track {index} is on frames {track.first_frame} to {track.last_frame}, "
                f"the video has {whole.length}"
            )
    facts = msgspec.structs.asdict(whole)
    ids = [track.track_id for track in facts.pop("tracks")]
    return VideoMeta(**facts), ids
