"""Predict: a video in, tracks out; as files, or frame by frame as soon as they are final."""

from __future__ import annotations

import contextlib
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Unpack

import msgspec
import numpy as np

from vistool.config import PredictConfig, PredictOptions, from_mapping
from vistool.engine.device import versions
from vistool.engine.predict.job import PredictJob
from vistool.engine.predict.segment import SegmentedFrame, Segmenter
from vistool.engine.tracked_video import TrackedFrame, TrackedVideo
from vistool.engine.writers import (
    OUTPUTS,
    may_be_whole,
    save_results,
    write_outputs,
)
from vistool.errors import UsageError, VistoolError
from vistool.formats.files import new_run_folder, path_as_text
from vistool.formats.masks.rle import encode_mask
from vistool.formats.results.files import Category, VideoMeta
from vistool.formats.results.spool import SegmentationSpool
from vistool.formats.video.reader import VideoReader, open_arrays
from vistool.models.checkpoints.files import LoadedModel, find_weights, load_model
from vistool.progress import OnProgress, silent
from vistool.structures import FrameTracks, Instance, Track, VideoFrame
from vistool.tracking.nms import TrackOverlaps
from vistool.tracking.postprocess import masks_at, results_single_class

VIDEO_ID = 1  # every video has a results file of its own


def predict(
    source: str | Path | Iterable[np.ndarray],
    *,
    model: LoadedModel | str | Path = "ifc-lite",
    keep_images: bool = False,
    on_progress: OnProgress = silent,
    **settings: Unpack[PredictOptions],
) -> TrackedVideo:
    """Segment, classify and track every object of a video.

    >>> with vistool.predict("squares.mp4", model=model, conf=0.8) as video:
    ...     [(track.id, track.class_name, round(track.score, 2)) for track in video.tracks]
    [(1, 'red', 0.95), (2, 'green', 0.87)]

    Args:
        source: video file, folder of frames, TIFF of pages, or RGB pictures, [H, W, 3] uint8 each;
            these need `fps`.
        model: loaded, or the name or path of weights, which are then loaded once.
        keep_images: keep given pictures in memory, for whatever shows or draws them later.
        settings: those of `vistool predict`, by the same names.

    Returns: the video; close it, or use it as a context manager, to free its space on disk. Where
        the source turns out to be incomplete, `meta.complete` is False, and `warnings` says more.
    Raises: UsageError, DataError, WeightsError, OutOfMemoryError.
    """
    job = PredictJob(_loaded(model), from_mapping(settings, PredictConfig, where="predict"))
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(_opened(job, source, keep_images))
        spool = stack.enter_context(SegmentationSpool(Path(tempfile.gettempdir())))
        record = VideoRecord(job, reader, spool)
        record.fill(on_progress)
        return record.video(complete=True, resources=stack.pop_all())


def track(
    source: str | Path | Iterable[np.ndarray],
    *,
    model: LoadedModel | str | Path = "ifc-lite",
    **settings: Unpack[PredictOptions],
) -> Generator[TrackedFrame, None, None]:
    """`predict` as a stream: every frame as soon as no later one can change its masks.

    Class and score of a track are those so far. Tracks are numbered as they are first shown, and
    keep their number; `predict` numbers only those that it reports in the end, so the two differ.

    >>> for frame in vistool.track("squares.mp4", model=model, start=0.3, end=0.5):
    ...     print(frame)
    <TrackedFrame 3 at 0.30 s: red 1, blue 2>
    <TrackedFrame 4 at 0.40 s: red 1, blue 2, green 3>

    Args: as for `predict`.
    Yields: frames with their pictures; pictures of frames that are not final are in memory.
    Raises: as `predict`.
    """
    job = PredictJob(_loaded(model), from_mapping(settings, PredictConfig, where="track"))
    segmenter = job.segmenter(keep_pictures=True)
    reader = _opened(job, source, keep=False)

    def frames() -> Generator[TrackedFrame, None, None]:
        with reader, contextlib.closing(iterate(job, reader, segmenter)) as tracked:
            yield from tracked

    return frames()


def _loaded(model: LoadedModel | str | Path) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model
    path = find_weights(model).absolute()
    return _loaded_once(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _loaded_once(path: Path, _: int) -> LoadedModel:
    return load_model(path)


def _opened(job: PredictJob, source: str | Path | Iterable[np.ndarray], keep: bool) -> VideoReader:
    if isinstance(source, str | Path):
        return job.open(Path(source))
    for name, value in (("stream", job.config.stream), ("range", job.config.range)):
        if value is not None:
            raise UsageError(f"{name} {value}: not for pictures given as arrays")
    if job.config.fps is None:
        raise UsageError("pictures have no time stamps", hint="say how fast they follow: fps=25")
    return open_arrays(source, fps=job.config.fps, keep=keep)


def iterate(
    job: PredictJob, reader: VideoReader, segmenter: Segmenter
) -> Generator[TrackedFrame, None, None]:
    """Segment and track a video; yields every frame as soon as no later clip can change it.

    A track comes with the class that is most likely so far, and is left out while that class is
    not asked for, its score lies below `conf`, or it overlaps one with a higher score too much.
    Tracks are numbered from 1 as they are first shown, and keep their number.

    Args: segmenter: a new one.
    """
    overlaps = job.overlaps()
    ids: dict[int, int] = {}
    shown: tuple[Instance, ...] = ()
    with contextlib.closing(segmenter.frames(job.decoded(reader))) as frames:
        for frame in frames:
            if frame.tracks is not None:
                shown = tuple(_instances(job, frame, frame.tracks, overlaps, ids))
            yield TrackedFrame(
                index=frame.index,
                time=frame.time,
                seen=frame.tracks is not None,
                size=frame.size,
                shown=shown,
                get_picture=partial(_picture, frame),
            )


def _picture(frame: SegmentedFrame) -> VideoFrame:
    if frame.picture is None:
        raise UsageError("the pictures of this stream were not kept")
    return VideoFrame(frame.index, frame.time, frame.picture)


def _instances(
    job: PredictJob,
    frame: SegmentedFrame,
    tracks: FrameTracks,
    overlaps: TrackOverlaps | None,
    ids: dict[int, int],
) -> list[Instance]:
    """The instances to report on a frame, by classes and overlaps so far; new tracks get an id."""
    if overlaps is not None:
        overlaps.add(tracks)
    so_far = results_single_class(frame.class_probs, tracks.track_ids)
    likely = {track.id: track for track in job.reported(so_far, overlaps)}
    found = []
    for number, mask in masks_at(tracks, frame.size):
        if number in likely:
            id_ = ids.setdefault(number, len(ids) + 1)
            found.append(Instance(replace(likely[number], id=id_), encode_mask(mask)))
    return sorted(found, key=lambda instance: instance.track.id)


def predict_opened(
    job: PredictJob, reader: VideoReader, folder: Path, on_progress: OnProgress = silent
) -> tuple[TrackedVideo, Path]:
    """Segment and track a video; writes results.json and meta.json into `folder`.

    The overlay and what `job.config.save` asks for are written beside them, and what an earlier run
    left is replaced.

    Files appear complete or not at all. If the source turns out to be damaged half-way, or on
    Ctrl-C, the frames that are final by then are written (meta.json says `complete: false`), and
    the exception goes on, with a note of where they are: in `folder`, or beside it if it holds
    the results of a whole video. So it is with a source that turns out to be incomplete, but for
    the exception.

    Returns: the video, whose masks are in its folder alone, and that folder.
    Raises: UsageError, DataError, OutOfMemoryError; VistoolError if something could not be
        written, after all that could.
    """
    kinds = list(dict.fromkeys([*job.config.save, *(["overlay"] if job.config.overlay else [])]))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with SegmentationSpool(folder) as spool:
            video, place = _segment(VideoRecord(job, reader, spool), folder, kinds, on_progress)
            try:
                write_outputs(kinds, video, place, on_progress)
            except (KeyboardInterrupt, VistoolError, OSError) as error:
                error.add_note(f"the results of all {video.meta.length} frames are in {place}")
                raise
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if nothing was written
        raise
    return video, place


def _segment(
    record: VideoRecord, folder: Path, kinds: Sequence[str], on_progress: OnProgress
) -> tuple[TrackedVideo, Path]:
    """Fill the record and write its files, also if only a part of the video could be processed."""
    try:
        record.fill(on_progress)
        video = record.video(complete=True)
        place = folder if video.meta.complete else _place_of_part(folder)
        save_results(video, place, kinds)
    except (KeyboardInterrupt, VistoolError, OSError) as error:
        if record.length:
            error.add_note(_save_part(record, folder, kinds))
        raise
    return video, place


def _place_of_part(folder: Path) -> Path:
    """Where the results of a part of a video go: not over those of a whole one."""
    if may_be_whole(folder):
        return new_run_folder(folder.parent, f"{folder.name}-partial", exist_ok=False)
    return folder


def _save_part(record: VideoRecord, folder: Path, kinds: Sequence[str]) -> str:
    """Write the finished part of a video, not over results of a whole one; returns a message."""
    done = f"the {record.length} frames that were done"
    place = folder
    try:
        place = _place_of_part(folder)
        video = record.video(complete=False)
        save_results(video, place, kinds)
        quick = [kind for kind in kinds if not OUTPUTS[kind].pictures]
        with contextlib.suppress(VistoolError):  # the first error is reported
            write_outputs(quick, video, place)
    except (VistoolError, OSError) as error:
        with contextlib.suppress(OSError):
            place.rmdir()  # only if nothing was written
        return f"{done} could not be saved: {error}"
    kept = f"; {folder} keeps the results of an earlier run" if place != folder else ""
    return f"{done} are in {place}{kept}"


class VideoRecord:
    """The final frames of a video: masks on disk; in memory 8 bytes per frame and 4 per mask."""

    def __init__(self, job: PredictJob, reader: VideoReader, spool: SegmentationSpool) -> None:
        self._job, self._reader, self._spool = job, reader, spool
        self._segmenter = job.segmenter()
        self._overlaps = job.overlaps()
        self._first_frame = 0
        self._times = array("d")
        self._frames: defaultdict[int, array[int]] = defaultdict(lambda: array("I"))  # by track

    @property
    def length(self) -> int:
        """The number of frames that are complete."""
        return len(self._times)

    def fill(self, on_progress: OnProgress) -> None:
        """Run the model over the video. Raises: as `PredictJob.decoded`, and OutOfMemoryError."""
        total = _expected_frames(self._reader, self._job.config)
        decoded = self._job.decoded(self._reader)
        with contextlib.closing(self._segmenter.frames(decoded)) as frames:
            for frame in frames:
                self._add(frame)
                on_progress("segmenting", self.length, total)

    def _add(self, frame: SegmentedFrame) -> None:
        if not self._times:
            self._first_frame = frame.index
        if frame.tracks is not None:
            if self._overlaps is not None:
                self._overlaps.add(frame.tracks)
            for track_id, mask in masks_at(frame.tracks, frame.size):
                self._spool.add(self.length, track_id, encode_mask(mask))
                self._frames[track_id].append(self.length)
        self._times.append(frame.time)

    def video(
        self, *, complete: bool, resources: contextlib.ExitStack | None = None
    ) -> TrackedVideo:
        """The tracks that are to be reported, numbered from 1 as they appear.

        Args:
            complete: whether all frames that the source gave are there; the video is a part, too,
                where the source did not give all.
            resources: closed with the video.
        """
        found = self._job.results(self._segmenter.class_probs())
        tracks = [
            replace(track, frames=frames)
            for track in self._job.reported(found, self._overlaps)
            if (frames := self._frames_of(track.id))
        ]
        reader = self._reader  # the video must not hold on to `self`, and so to the model
        return TrackedVideo(
            self._meta(complete),
            _numbered(tracks),
            self._spool,
            lambda: reader,
            name=f"tracks of {self._reader.path}",
            resources=resources,
        )

    def _frames_of(self, track_id: int) -> array[int]:
        """The frames of a track, without one that was being added when an error occurred."""
        return array("I", (frame for frame in self._frames[track_id] if frame < self.length))

    def _files(self) -> list[str] | None:
        """Where every frame comes from, if they are kept as pictures."""
        names = self._reader.frame_names
        chosen = names[self._first_frame : self._first_frame + self.length]
        return [path_as_text(Path(name)) for name in chosen] if names else None

    def _meta(self, complete: bool) -> VideoMeta:
        header = self._job.loaded.header
        config = self._job.config
        used = {
            "max_overlap": self._job.max_overlap,
            "clip_length": self._segmenter.clip_length or "all",
            "clip_stride": self._segmenter.clip_stride,
            "size": self._segmenter.short_side,
            "batch": self._segmenter.batch,
            "device": str(self._segmenter.device),
            "precision": str(self._segmenter.dtype).removeprefix("torch."),
        }
        return VideoMeta(
            source=path_as_text(self._reader.path.absolute()),
            video_id=VIDEO_ID,
            width=self._reader.size.width,
            height=self._reader.size.height,
            length=self.length,
            complete=complete and not self._reader.incomplete,
            first_frame=self._first_frame,
            times=self._times.tolist(),
            frame_stride=config.frame_stride,
            rotation=self._reader.rotation,
            fps=self._reader.fps,
            stream=self._reader.stream,
            value_range=self._reader.value_range,
            files=self._files(),
            categories=[
                Category(id=i, name=name)
                for i, name in zip(header.config.ids_of_classes(), self._job.names, strict=True)
            ],
            model={
                "name": header.name,
                "path": path_as_text(header.path),
                "sha256": self._job.loaded.sha256,
            },
            settings={**msgspec.to_builtins(config), **used},
            versions=versions(),
        )


def _numbered(tracks: list[Track]) -> list[tuple[Track, int]]:
    """Tracks with new ids, from 1 by first frame, and the ids that they had.

    Of those that begin together, the first in the list comes first.
    """
    first = {track.id: track.frames[0] for track in tracks}  # once, where there is one a class
    ids = {old: new for new, old in enumerate(sorted(first, key=first.__getitem__), start=1)}
    return [(replace(track, id=ids[track.id]), track.id) for track in tracks]


def _expected_frames(reader: VideoReader, config: PredictConfig) -> int | None:
    """A guess for the progress bar."""
    total = reader.frame_count_hint
    if total is None:
        return None
    end = total if config.end is None else min(total, round(config.end * reader.fps))
    return max(1, end - round((config.start or 0) * reader.fps))
