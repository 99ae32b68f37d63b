"""Render: saved results drawn on their video, without a model."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vistool.errors import DataError, UsageError
from vistool.formats.dataset import DataSet
from vistool.formats.detect import read_dataset
from vistool.formats.results import (
    META,
    RESULTS,
    SegmentationSpool,
    VideoMeta,
    iterate_results,
    read_meta,
    video_ids,
)
from vistool.formats.rle import decode_mask
from vistool.formats.threads import prefetch
from vistool.formats.video import VideoReader, open_video
from vistool.formats.video_writer import VideoWriter
from vistool.progress import OnProgress, silent
from vistool.rendering.overlay import DEFAULT_STYLE, DrawnInstance, OverlayStyle, draw_tracks
from vistool.structures import Size, TrackSegmentation, VideoFrame

SUFFIX = ".mp4"
FRAMES_AHEAD = 4  # that are decoded while others are drawn


@dataclass(frozen=True, slots=True)
class Track:
    """One entry of a results file as it is drawn."""

    track_id: int
    label: str
    score: float


def render_video(
    source: Path,
    results: Path,
    output: Path,
    *,
    meta: Path | None = None,
    video: int | str | None = None,
    annotations: Path | None = None,
    style: OverlayStyle = DEFAULT_STYLE,
    conf: float = 0.0,
    on_progress: OnProgress | None = None,
) -> Path:
    """Draw the tracks of a results file on every frame; writes an mp4 with the source's sound.

    Without a meta.json, entries are numbered in the order of the file and named by their ids, and
    the results must cover the whole source. Frames that the model did not see show the masks of
    the last one that it saw.

    Args:
        source: video file or folder of frames.
        results: results.json in the YouTube-VIS format, or the folder that holds it.
        output: the mp4 to write; one that exists is replaced.
        meta: meta.json; by default the one beside the results, if there is one.
        video: which one's results to draw, if there are those of several: its id, or its name
            in `annotations`.
        annotations: data set whose names classes and videos have.
        conf: tracks with a lower score are not drawn.

    Returns: `output`.
    Raises: UsageError, DataError; DataError also if the results belong to another video.
    """
    if output.suffix.lower() != SUFFIX:
        raise UsageError(f"{output}: overlays are written as {SUFFIX}")
    if results.is_dir():
        results = results / RESULTS
    if meta is None and results.with_name(META).exists():
        meta = results.with_name(META)
    details = read_meta(meta) if meta else None
    dataset = read_dataset(annotations, masks=False) if annotations else None
    video_id = _video_id(results, video, dataset)
    named = dataset or details
    names = {category.id: category.name for category in named.categories} if named else {}
    with open_video(source) as reader:
        if output.exists() and output.samefile(source):
            raise UsageError(f"{output}: would replace the source", hint="choose another --output")
        output.parent.mkdir(parents=True, exist_ok=True)
        with SegmentationSpool(output.parent) as spool:
            spooled = SpooledResults(results, spool, details)
            spooled.read(details, reader.size, conf, names=names, video_id=video_id)
            draw_results(reader, spooled, output, style=style, on_progress=on_progress or silent)
    return output


def _video_id(results: Path, wanted: int | str | None, dataset: DataSet | None) -> int | None:
    """The video to draw; None if the file has no results. Raises: DataError, UsageError."""
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


class SpooledResults:
    """The tracks of a results file, their masks on disk until their frame is drawn.

    `tracks` says what to draw of the masks in `spool`, by the number that they have there.
    """

    def __init__(self, path: Path, spool: SegmentationSpool, meta: VideoMeta | None) -> None:
        self.path = path
        self.tracks: dict[int, Track] = {}
        self.first_frame = meta.first_frame if meta else 0
        self.start = meta.times[0] if meta and meta.times else 0.0
        self.length = meta.length if meta else None  # None: no entry says it
        # Predicted up to the end of the source, so the source must not go on after that.
        self.to_the_end = meta is None or (meta.complete and meta.settings.get("end") is None)
        self._stride = meta.frame_stride if meta else 1
        self._spool = spool
        self._held: tuple[int, list[DrawnInstance]] = (-1, [])  # frame, and what is on it

    def read(
        self,
        meta: VideoMeta | None,
        size: Size,
        conf: float,
        *,
        names: Mapping[int, str],
        video_id: int | None,
    ) -> None:
        """Fill the spool and `tracks` from the file, numbered by position in the video's results.

        Args: names: of categories, by id; video_id: of the video; None: there are no results.
        Raises: DataError if the file does not fit `meta` or the video's size.
        """
        if meta:
            self._check_size((meta.height, meta.width), size)
        count = 0
        for count, entry in enumerate(iterate_results(self.path, video_id=video_id), start=1):
            self._check(count - 1, entry, size)
            track_id = _track_id(self.path, count - 1, meta)
            label = names.get(entry["category_id"], f"class {entry['category_id']}")
            self._add(count - 1, entry, Track(track_id, label, entry["score"]), conf)
        if meta and count != len(meta.tracks):
            raise _not_of_one_run(self.path, f"{count}", meta)

    def _add(self, position: int, entry: TrackSegmentation, track: Track, conf: float) -> None:
        """Keep an entry to draw; a track that has one a class is drawn once, as the likeliest."""
        rival = next((p for p, t in self.tracks.items() if t.track_id == track.track_id), None)
        if track.score < conf or (rival is not None and self.tracks[rival].score >= track.score):
            return
        if rival is not None:
            del self.tracks[rival]
        self.tracks[position] = track
        for frame, mask in enumerate(entry["segmentations"]):
            if mask is not None:
                self._spool.add(frame, position, mask)

    def instances(self, frame: int) -> list[DrawnInstance]:
        """What to draw on a frame, counted from the first one of the results."""
        seen = frame - frame % self._stride
        if self._held[0] != seen:
            self._held = (seen, list(self._decoded(seen)))
        return self._held[1]

    def _decoded(self, frame: int) -> Iterator[DrawnInstance]:
        for position, mask in self._spool.frame(frame):
            track = self.tracks.get(position)
            if track is not None:
                yield DrawnInstance(track.track_id, track.label, track.score, decode_mask(mask))

    def _check(self, position: int, entry: TrackSegmentation, size: Size) -> None:
        """Raises: DataError if an entry does not fit the source or the others."""
        masks = entry["segmentations"]
        if self.length is None:
            self.length = len(masks)
        if len(masks) != self.length:
            raise DataError(
                f"{self.path}: result {position} has {len(masks)} segmentations, "
                f"expected {self.length}"
            )
        height, width = next((mask["size"] for mask in masks if mask), size)
        self._check_size((height, width), size)

    def _check_size(self, stated: tuple[int, int], size: Size) -> None:
        if stated != size:
            height, width = stated
            raise DataError(
                f"{self.path}: its masks are {width}x{height}, "
                f"the source is {size.width}x{size.height}",
                hint="are these the results of this video?",
            )


def _track_id(path: Path, position: int, meta: VideoMeta | None) -> int:
    """Raises: DataError if meta.json does not know the entry."""
    if meta is None:
        return position + 1
    if position >= len(meta.tracks):
        raise _not_of_one_run(path, "more", meta)
    return meta.tracks[position].track_id


def _not_of_one_run(path: Path, found: str, meta: VideoMeta) -> DataError:
    return DataError(
        f"{path}: {META} describes {len(meta.tracks)} results, but the file has {found}",
        hint="are both files of the same run?",
    )


def draw_results(
    reader: VideoReader,
    results: SpooledResults,
    output: Path,
    *,
    style: OverlayStyle = DEFAULT_STYLE,
    on_progress: OnProgress = silent,
) -> None:
    """Write the overlay. Raises: DataError if the source has fewer or more frames than results."""
    sound = reader.path if reader.has_audio else None
    with (
        VideoWriter(
            output,
            reader.size,
            fps=reader.fps,
            pixel_aspect=reader.pixel_aspect,
            audio_from=sound,
            audio_start=results.start,
        ) as writer,
        contextlib.closing(prefetch(result_frames(reader, results), FRAMES_AHEAD)) as frames,
    ):
        for done, frame in enumerate(frames, start=1):
            instances = results.instances(frame.index - results.first_frame)
            writer.write(draw_tracks(frame.image, instances, style), frame.time)
            on_progress("drawing", done, results.length or reader.frame_count_hint)


def result_frames(
    reader: VideoReader, results: SpooledResults
) -> Generator[VideoFrame, None, None]:
    """The frames that the results are about.

    Raises: DataError if the source has fewer or more, at its end.
    """
    done = 0
    # From a frame earlier, then by number: a copy of the source may round its time stamps.
    for frame in reader.frames(start=max(0.0, results.start - 1 / reader.fps)):
        position = frame.index - results.first_frame
        if results.length is not None and position >= results.length:
            if results.to_the_end:
                raise _other_video(results, reader, "more")
            return
        if position >= 0:
            done += 1
            yield frame
    if results.length is not None and done < results.length:
        raise _other_video(results, reader, f"only {done}")


def _other_video(results: SpooledResults, reader: VideoReader, found: str) -> DataError:
    return DataError(
        f"{results.path}: results of {results.length} frames, but {reader.path} has {found}",
        hint="are these the results of this video?",
    )
