"""Predict: a video in, tracks out; as files, or frame by frame as soon as they are final."""

from __future__ import annotations

import contextlib
import platform
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from vistool.config import PredictConfig
from vistool.engine.device import choose_device
from vistool.engine.distributed import Processes
from vistool.engine.predict_job import PredictJob
from vistool.engine.render import SpooledResults, Track, draw_results
from vistool.engine.save import remove_extras, save_extras
from vistool.engine.segment import SegmentedFrame, Segmenter
from vistool.errors import PartialFailureError, UsageError, VistoolError, WeightsError
from vistool.formats.results import (
    META,
    OVERLAY,
    RESULTS,
    Category,
    SegmentationSpool,
    TrackMeta,
    VideoMeta,
    new_run_folder,
    write_meta,
    write_results,
)
from vistool.formats.rle import encode_mask
from vistool.formats.video import VideoReader, open_video
from vistool.models.weights import LoadedModel
from vistool.progress import OnProgress, silent
from vistool.structures import FrameInstance, FrameResult, TrackSegmentation
from vistool.tracking.postprocess import (
    TrackClass,
    masks_at,
    results_single_class,
)

VIDEO_ID = 1  # every video has a results file of its own


@dataclass(frozen=True, slots=True)
class PredictedVideo:
    """What `predict_video` left on disk."""

    source: Path
    folder: Path
    frames: int  # decoded, and in results.json
    tracks: int  # reported
    overlay: Path | None
    warnings: tuple[str, ...]  # what was odd about the source, one line each


def iterate_video(
    model: LoadedModel | str, source: Path | str, config: PredictConfig | None = None
) -> Generator[FrameResult, None, None]:
    """Segment and track a video; yields every frame as soon as no later clip can change it.

    A track comes with the class that is most likely so far, and is left out while that class is
    not asked for or its score lies below `config.conf`.

    Args: model: loaded, or the name or path of weights; source: a video file or folder of frames.
    Raises: UsageError, DataError, WeightsError, OutOfMemoryError.
    """
    job = PredictJob(model, config or PredictConfig())
    with (
        open_video(Path(source)) as reader,
        contextlib.closing(_iterate(job, reader)) as frames,
    ):
        yield from frames


def stream_videos(
    model: LoadedModel | str,
    sources: Sequence[Path],
    config: PredictConfig,
    *,
    on_frame: Callable[[Path, FrameResult], None],
    on_warning: Callable[[str], None],
    on_failure: Callable[[Path, VistoolError], None],
) -> None:
    """`iterate_video` for each of several sources, one after the other.

    Raises: as `predict_videos`.
    """
    job = PredictJob(model, config)
    failed: list[Path] = []
    for source in sources:
        with _or_note(source, len(sources), failed, on_failure):
            with (
                open_video(source) as reader,
                contextlib.closing(_iterate(job, reader)) as frames,
            ):
                for frame in frames:
                    on_frame(source, frame)
            for warning in reader.warnings:
                on_warning(warning)
    _raise_if_any(failed, len(sources))


def _iterate(job: PredictJob, reader: VideoReader) -> Generator[FrameResult, None, None]:
    with contextlib.closing(job.segmenter().frames(job.decoded(reader))) as frames:
        for frame in frames:
            instances = tuple(_instances(job, frame))
            yield FrameResult(frame.index, frame.time, frame.tracks is not None, instances)


@contextlib.contextmanager
def _or_note(
    source: Path,
    total: int,
    failed: list[Path],
    on_failure: Callable[[Path, VistoolError], None] | None,
) -> Iterator[None]:
    """Let one of several sources fail without the others; what concerns all of them is raised."""
    try:
        yield
    except (UsageError, WeightsError):
        raise
    except VistoolError as error:
        if total == 1:
            raise
        failed.append(source)
        if on_failure:
            on_failure(source, error)


def _raise_if_any(failed: Sequence[Path], total: int) -> None:
    if failed:
        raise PartialFailureError(
            f"{len(failed)} of {total} sources failed: {', '.join(map(str, failed))}"
        )


def predict_video(
    model: LoadedModel | str,
    source: Path | str,
    folder: Path | str,
    config: PredictConfig | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> PredictedVideo:
    """Segment and track a video; writes results.json, meta.json and overlay.mp4 into `folder`.

    What `config.save` asks for is written beside them.

    Files appear complete or not at all. If the source turns out to be damaged half-way, or on
    Ctrl-C, the frames that are final by then are written (meta.json says `complete: false`), and
    the exception goes on.

    Args: model: loaded, or the name or path of weights; source: a video file or folder of frames.
    Raises: UsageError, DataError, WeightsError, OutOfMemoryError.
    """
    job = PredictJob(model, config or PredictConfig())
    with open_video(Path(source)) as reader:
        return predict_opened(job, reader, Path(folder), on_progress or silent)


def predict_videos(
    model: LoadedModel | str,
    sources: Sequence[Path],
    parent: Path,
    config: PredictConfig,
    *,
    exist_ok: bool = False,
    processes: Processes | None = None,
    on_progress: OnProgress = silent,
    on_done: Callable[[PredictedVideo], None] | None = None,
    on_failure: Callable[[Path, VistoolError], None] | None = None,
) -> list[PredictedVideo]:
    """`predict_video` for each of several sources, in folders below `parent` named after them.

    Args:
        exist_ok: write into a folder that is there already; else its name gets "-2", "-3"...
        processes: that share the sources, each calling this with all of them.
        on_done, on_failure: called after each source, in the process that had it.

    Raises: the error of a single source; PartialFailureError if some of several failed; and at
        once what concerns all of them (UsageError, WeightsError).
    """
    processes = processes or Processes(choose_device(config.device))
    job = PredictJob(model, msgspec.structs.replace(config, device=str(processes.device)))
    done: list[PredictedVideo] = []
    failed: list[Path] = []
    names = [source.stem for source in sources]
    for number in processes.mine(range(len(sources))):
        source = sources[number]
        with _or_note(source, len(sources), failed, on_failure):
            with open_video(source) as reader:
                reuse = exist_ok and names[number] not in names[:number]
                folder = new_run_folder(parent, reader.name, exist_ok=reuse)
                done.append(predict_opened(job, reader, folder, on_progress))
            if on_done:
                on_done(done[-1])
    # Not before all are done: whoever started the processes ends them when one fails.
    _raise_if_any([source for some in processes.gather(failed) for source in some], len(sources))
    return done


def _instances(job: PredictJob, frame: SegmentedFrame) -> Iterator[FrameInstance]:
    """What is on a frame, as far as it is to be reported with the classes so far."""
    if frame.tracks is None:
        return
    so_far = results_single_class(frame.class_probs, frame.tracks.track_ids)
    likely = {result.track_id: result for result in job.reported(so_far)}
    for track_id, mask in masks_at(frame.tracks, frame.size):
        if track_id in likely:
            result = likely[track_id]
            name = job.names[result.label]
            yield FrameInstance(track_id, name, result.score, encode_mask(mask))


def predict_opened(
    job: PredictJob, reader: VideoReader, folder: Path, on_progress: OnProgress = silent
) -> PredictedVideo:
    """`predict_video` for a video that is open already."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with SegmentationSpool(folder) as spool:
            record = _Record(job, reader, folder, spool)
            meta = _segment(job, reader, record, on_progress)
            refused, failure = save_extras(
                job.config.save, folder, spool, meta, reader, on_progress
            )
            warnings = [*reader.warnings, *refused]
            overlay = folder / OVERLAY if job.config.overlay else None
            if overlay:
                _draw(reader, spool, meta, overlay, on_progress)
            if failure:
                raise failure
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if nothing was written
        raise
    return PredictedVideo(
        reader.path, folder, meta.length, len(meta.tracks), overlay, tuple(warnings)
    )


def _segment(
    job: PredictJob, reader: VideoReader, record: _Record, on_progress: OnProgress
) -> VideoMeta:
    """Fill the record and write its files; also where only a part of the video could be done."""
    segmenter = job.segmenter()
    total = _expected_frames(reader, job.config)
    try:
        with contextlib.closing(segmenter.frames(job.decoded(reader))) as frames:
            for frame in frames:
                record.add(frame)
                on_progress("segmenting", record.length, total)
    except (KeyboardInterrupt, VistoolError):
        if record.length:
            record.write_partial(segmenter)
        raise
    return record.write(segmenter, complete=True)


def _draw(
    reader: VideoReader,
    spool: SegmentationSpool,
    meta: VideoMeta,
    overlay: Path,
    on_progress: OnProgress,
) -> None:
    """What `vistool render` draws, but with the masks that lie in the spool already."""
    results = SpooledResults(overlay.with_name(RESULTS), spool, meta)
    names = {category.id: category.name for category in meta.categories}
    for track in meta.tracks:
        results.tracks[track.track_id] = Track(
            track.track_id, names[track.category_id], track.score
        )
    draw_results(reader, results, overlay, on_progress=on_progress)


class _Record:
    """The final frames of a video: masks on disk, time stamps in memory, 8 bytes each."""

    def __init__(
        self, job: PredictJob, reader: VideoReader, folder: Path, spool: SegmentationSpool
    ) -> None:
        self._job, self._reader, self._folder, self._spool = job, reader, folder, spool
        self._first_frame = 0
        self._times = array("d")

    @property
    def length(self) -> int:
        """The number of frames that are complete."""
        return len(self._times)

    def add(self, frame: SegmentedFrame) -> None:
        if not self._times:
            self._first_frame = frame.index
        if frame.tracks is not None:
            for track_id, mask in masks_at(frame.tracks, frame.size):
                self._spool.add(self.length, track_id, encode_mask(mask))
        self._times.append(frame.time)

    def write_partial(self, segmenter: Segmenter) -> None:
        """Write what there is, but for what takes long: pictures."""
        meta = self.write(segmenter, complete=False)
        quick = [kind for kind in self._job.config.save if kind != "cutouts"]
        save_extras(quick, self._folder, self._spool, meta, self._reader)

    def write(self, segmenter: Segmenter, *, complete: bool) -> VideoMeta:
        """Write results.json and meta.json; returns the latter."""
        visible = set(self._spool.tracks())
        results = [
            result
            for result in self._job.reported(self._job.results(segmenter.class_probs()))
            if result.track_id in visible
        ]
        tracks: list[TrackMeta] = []
        # What an earlier run left must not stand beside new results, whatever happens now.
        remove_extras(self._folder)
        for name in (OVERLAY, META):
            (self._folder / name).unlink(missing_ok=True)
        write_results(self._folder / RESULTS, self._entries(results, tracks))
        meta = self._meta(segmenter, tracks, complete)
        write_meta(self._folder / META, meta)
        return meta

    def _entries(
        self, results: Sequence[TrackClass], tracks: list[TrackMeta]
    ) -> Iterator[TrackSegmentation]:
        """One entry at a time; adds what the format has no field for to `tracks`."""
        ids = self._job.loaded.header.config.ids_of_classes()
        for result in results:
            masks = self._spool.segmentations(result.track_id, self.length)
            visible = [i for i, mask in enumerate(masks) if mask is not None]
            if not visible:
                continue
            category = ids[result.label]
            tracks.append(
                TrackMeta(
                    track_id=result.track_id,
                    category_id=category,
                    score=result.score,
                    first_frame=visible[0],
                    last_frame=visible[-1],
                )
            )
            yield TrackSegmentation(
                video_id=VIDEO_ID, category_id=category, score=result.score, segmentations=masks
            )

    def _meta(self, segmenter: Segmenter, tracks: list[TrackMeta], complete: bool) -> VideoMeta:
        header = self._job.loaded.header
        config = self._job.config
        used = {
            "clip_length": segmenter.clip_length or "all",
            "clip_stride": segmenter.clip_stride,
            "size": segmenter.short_side,
            "batch": segmenter.batch,
            "device": str(segmenter.device),
            "precision": str(segmenter.dtype).removeprefix("torch."),
        }
        return VideoMeta(
            source=str(self._reader.path.absolute()),
            video_id=VIDEO_ID,
            width=self._reader.size.width,
            height=self._reader.size.height,
            length=self.length,
            complete=complete,
            first_frame=self._first_frame,
            times=self._times.tolist(),
            frame_stride=config.frame_stride,
            rotation=self._reader.rotation,
            fps=self._reader.fps,
            categories=[
                Category(id=i, name=name)
                for i, name in zip(header.config.ids_of_classes(), self._job.names, strict=True)
            ],
            model={
                "name": header.name,
                "path": str(header.path),
                "sha256": self._job.loaded.sha256,
            },
            settings={**msgspec.to_builtins(config), **used},
            versions={
                "vistool": version("vistool"),
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            tracks=tracks,
        )


def _expected_frames(reader: VideoReader, config: PredictConfig) -> int | None:
    """A guess for the progress bar."""
    total = reader.frame_count_hint
    if total is None:
        return None
    end = total if config.end is None else min(total, round(config.end * reader.fps))
    return max(1, end - round((config.start or 0) * reader.fps))
