"""Predict: a video in, tracks out; as files, or frame by frame as soon as they are final."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vistool.config import PredictConfig
from vistool.engine.device import choose_device
from vistool.engine.distributed import Processes
from vistool.engine.predict_job import PredictJob
from vistool.engine.predict_record import VideoRecord
from vistool.engine.render import SpooledResults, Track, draw_results
from vistool.engine.save import FILES, FOLDERS, save_extras
from vistool.engine.segment import SegmentedFrame, Segmenter
from vistool.errors import PartialFailureError, UsageError, VistoolError, WeightsError
from vistool.formats.atomic import numbered
from vistool.formats.results import (
    META,
    OVERLAY,
    RESULTS,
    SegmentationSpool,
    VideoMeta,
    new_run_folder,
    read_meta,
)
from vistool.formats.rle import encode_mask
from vistool.formats.video import VideoReader, open_video
from vistool.formats.video_sources import source_name
from vistool.models.weights import LoadedModel
from vistool.progress import OnProgress, silent
from vistool.structures import FrameInstance, FrameResult
from vistool.tracking.duplicates import TrackOverlaps
from vistool.tracking.postprocess import (
    masks_at,
    results_single_class,
)

# What a run may write into its folder, or take away there.
OUTPUTS = {RESULTS, META, OVERLAY, *itertools.chain(*FILES.values()), *FOLDERS.values()}


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
    not asked for, its score lies below `config.conf`, or it overlaps a surer one too much.

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
    overlaps = job.overlaps()
    with contextlib.closing(job.segmenter().frames(job.decoded(reader))) as frames:
        for frame in frames:
            instances = tuple(_instances(job, frame, overlaps))
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
    except (UsageError, WeightsError, BrokenPipeError):
        raise
    except (VistoolError, OSError) as error:
        if total == 1:
            raise
        failed.append(source)
        if on_failure:
            failure = VistoolError.of_system(error) if isinstance(error, OSError) else error
            on_failure(source, failure)


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

    What `config.save` asks for is written beside them, and what an earlier run left is replaced.

    Files appear complete or not at all. If the source turns out to be damaged half-way, or on
    Ctrl-C, the frames that are final by then are written (meta.json says `complete: false`), and
    the exception goes on, with a note of where they are: in `folder`, or beside it if it holds
    the results of a whole video.

    Args: model: loaded, or the name or path of weights; source: a video file or folder of frames.
    Raises: UsageError, also for a source that lies where results go; DataError, WeightsError,
        OutOfMemoryError; VistoolError if something could not be written, after all that could.
    """
    _refuse_to_replace([Path(source)], [Path(folder)])
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
            Either way, every source has its own.
        processes: that share the sources, each calling this with all of them.
        on_done, on_failure: called after each source, in the process that had it.

    Raises: the error of a single source; PartialFailureError if some of several failed; and at
        once what concerns all of them (UsageError, WeightsError).
    """
    names = [source_name(source) for source in sources]
    if exist_ok:
        names = _numbered(names)
        _refuse_to_replace(sources, [parent / name for name in names])
    processes = processes or Processes(choose_device(config.device))
    job = PredictJob(model, msgspec.structs.replace(config, device=str(processes.device)))
    done: list[PredictedVideo] = []
    failed: list[Path] = []
    for number in processes.mine(range(len(sources))):
        source = sources[number]
        with _or_note(source, len(sources), failed, on_failure):
            with open_video(source) as reader:
                folder = new_run_folder(parent, names[number], exist_ok=exist_ok)
                done.append(predict_opened(job, reader, folder, on_progress))
            if on_done:
                on_done(done[-1])
    # Not before all are done: whoever started the processes ends them when one fails.
    failed = [source for some in processes.gather(failed) for source in some]
    if failed:
        processes.part()
    _raise_if_any(failed, len(sources))
    return done


def _numbered(names: Iterable[str]) -> list[str]:
    """The names, with "-2", "-3"... where one is there already."""
    taken: dict[str, None] = {}
    for name in names:
        taken[next(free for free in numbered(name) if free not in taken)] = None
    return list(taken)


def _refuse_to_replace(sources: Iterable[Path], folders: Iterable[Path]) -> None:
    """Raises: UsageError if a source is one of the folders, or lies where results go in one."""
    places = {folder.resolve() for folder in folders}
    for source in sources:
        # as it is named, too: it may be a link, which would go
        for path in {source.resolve(), source.parent.resolve() / source.name}:
            for place in places.intersection([path, *path.parents]):
                if path == place or path.relative_to(place).parts[0] in OUTPUTS:
                    raise UsageError(
                        f"{source}: lies where results would be written, in {place}",
                        hint="choose another --output",
                    )


def _instances(
    job: PredictJob, frame: SegmentedFrame, overlaps: TrackOverlaps | None
) -> Iterator[FrameInstance]:
    """What is on a frame, as far as it is to be reported by classes and overlaps so far."""
    if frame.tracks is None:
        return
    if overlaps is not None:
        overlaps.add(frame.tracks)
    so_far = results_single_class(frame.class_probs, frame.tracks.track_ids)
    likely = {result.track_id: result for result in job.reported(so_far, overlaps)}
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
            meta = _segment(job, reader, VideoRecord(job, reader, spool), folder, on_progress)
            try:
                overlay = _draw_and_save(job, reader, spool, meta, folder, on_progress)
            except (KeyboardInterrupt, VistoolError, OSError) as error:
                error.add_note(f"the results of all {meta.length} frames are in {folder}")
                raise
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only if nothing was written
        raise
    return PredictedVideo(
        reader.path, folder, meta.length, len(meta.tracks), overlay, tuple(reader.warnings)
    )


def _segment(
    job: PredictJob, reader: VideoReader, record: VideoRecord, folder: Path, on_progress: OnProgress
) -> VideoMeta:
    """Fill the record and write its files; also where only a part of the video could be done."""
    segmenter = job.segmenter()
    total = _expected_frames(reader, job.config)
    try:
        with contextlib.closing(segmenter.frames(job.decoded(reader))) as frames:
            for frame in frames:
                record.add(frame)
                on_progress("segmenting", record.length, total)
        return record.write(folder, segmenter, complete=True)
    except (KeyboardInterrupt, VistoolError, OSError) as error:
        if record.length:
            error.add_note(_save_part(record, folder, segmenter))
        raise


def _save_part(record: VideoRecord, folder: Path, segmenter: Segmenter) -> str:
    """Write what is done of a video, but not over the results of a whole one; says where it is."""
    done = f"the {record.length} frames that were done"
    place = folder
    try:
        if _may_be_whole(folder):
            place = new_run_folder(folder.parent, f"{folder.name}-partial", exist_ok=False)
        record.write_partial(place, segmenter)
    except (VistoolError, OSError) as error:
        with contextlib.suppress(OSError):
            place.rmdir()  # only if nothing was written
        return f"{done} could not be saved: {error}"
    kept = f"; {folder} keeps the results of an earlier run" if place != folder else ""
    return f"{done} are in {place}{kept}"


def _may_be_whole(folder: Path) -> bool:
    """False if there are no results in the folder, or they say that they are a part."""
    try:
        return (folder / RESULTS).exists() and read_meta(folder / META).complete
    except VistoolError:
        return True


def _draw_and_save(
    job: PredictJob,
    reader: VideoReader,
    spool: SegmentationSpool,
    meta: VideoMeta,
    folder: Path,
    on_progress: OnProgress,
) -> Path | None:
    """What is made of the results: returns the overlay, None if it is not wanted.

    Raises: VistoolError if something could not be written, when all else is.
    """
    failures = save_extras(job.config.save, folder, spool, meta, reader, on_progress)
    overlay = folder / OVERLAY if job.config.overlay else None
    if overlay:
        _draw(reader, spool, meta, overlay, on_progress)
    if failures:
        raise VistoolError(f"{reader.path}: {'; '.join(failures)}")
    return overlay


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


def _expected_frames(reader: VideoReader, config: PredictConfig) -> int | None:
    """A guess for the progress bar."""
    total = reader.frame_count_hint
    if total is None:
        return None
    end = total if config.end is None else min(total, round(config.end * reader.fps))
    return max(1, end - round((config.start or 0) * reader.fps))
