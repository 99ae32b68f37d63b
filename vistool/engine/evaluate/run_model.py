"""Run a model on all videos of a data set, by several processes, and write one results file.

Every video gets a folder, as `predict` writes it. A resumed run skips videos that are complete.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from vistool.annotations.dataset import AnnotatedVideo, DataSet, frame_file
from vistool.annotations.problems import SHOWN, refuse_all
from vistool.annotations.results_check import check_results
from vistool.config import PredictConfig, to_json
from vistool.engine.distributed import joined
from vistool.engine.evaluate.predictions import (
    FAILURE,
    Predictions,
    Run,
    name_of,
    noted_failures,
    run_folder,
    video_folder,
)
from vistool.engine.evaluate.scored_set import matched_classes
from vistool.engine.predict.job import PredictJob
from vistool.engine.predict.video import predict_opened
from vistool.errors import DataError, UsageError, VistoolError, WeightsError
from vistool.formats.files import atomic_path
from vistool.formats.results.files import META, RESULTS, iterate_results, read_meta, write_results
from vistool.formats.video.reader import open_frames
from vistool.models.checkpoints.files import LoadedModel, load_model
from vistool.progress import OnProgress, silent
from vistool.signals import TERMINAL_SIGNALS, end_with_parent
from vistool.structures import TrackSegmentation


def predict_dataset(
    dataset: DataSet,
    data_key: str,
    model: str | LoadedModel,
    parent: Path,
    config: PredictConfig,
    *,
    workers: int = 1,
    on_progress: OnProgress = silent,
) -> Predictions | None:
    """Run a model on the videos without a complete result, and write all into results.json.

    Under `torchrun`, every process takes its share of the videos.

    Args:
        data_key: identifies the data set, as `open_dataset` returns it.
        model: a name, a weight file or a loaded model.
        workers: processes on this machine, each with the model in its memory.

    Returns: None in every process of `torchrun` except the first.
    Raises: UsageError, WeightsError, DataError if the data set names no frames or no video could
        be run.
    """
    if not all(video.file_names for video in dataset.videos):
        raise DataError(
            f"{dataset.path}: does not name the frames of its videos",
            hint="score saved results with --predictions instead",
        )
    loaded = model if isinstance(model, LoadedModel) else load_model(model)
    run = _run(dataset, data_key, loaded, config)
    with joined(config.device) as processes:
        stem = f"{name_of(dataset)}-{run.model}"
        folder = processes.agree(lambda: run_folder(parent, stem, run))
        undone = processes.agree(
            lambda: {v.id for v in dataset.videos if not _is_complete(folder, v)}
        )
        if undone and processes.is_first:  # incomplete results must not be scored
            (folder / RESULTS).unlink(missing_ok=True)
        mine = processes.mine([video for video in dataset.videos if video.id in undone])
        on_device = msgspec.structs.replace(config, device=str(processes.device))
        progress = _Frames(dataset.videos, mine, on_progress)
        place = _Place(folder, dataset.frames)
        make_job = partial(PredictJob, config=on_device, multi_class=run.multi_class)
        if workers > 1:
            weights = str(loaded.header.path)
            _run_in_processes(partial(make_job, weights), place, mine, workers, progress)
        else:
            job = make_job(loaded)
            for video in mine:
                _run_video(job, place, video, partial(progress.within, video))
                progress.finish(video)
        processes.gather(None)  # wait for the others
        if not processes.is_first:
            return None
    failed = _failures(folder, dataset.videos)
    done = [video for video in dataset.videos if video.id not in failed]
    if not done:
        reasons = [f"{video.name}: {failed[video.id]}" for video in dataset.videos[:SHOWN]]
        raise DataError(
            "\n".join([f"none of the {len(failed)} videos could be run", *reasons]),
            hint="if the frames are elsewhere, name their folder: --frames",
        )
    targets = {c.id: c.target for c in run.classes if c.category_ids}
    left_out: list[int] = []
    write_results(folder / RESULTS, _joined(folder, done, targets, left_out))
    checked = check_results(folder / RESULTS, dataset)
    refuse_all(checked.problems)
    without = [match.name for match in run.classes if not match.category_ids]
    warning = (
        f"the data set has no category for the model's {', '.join(without)}: "
        f"{len(left_out)} predictions are left out"
    )
    warnings = (warning,) if without else ()
    return Predictions(folder / RESULTS, data_key, checked.results, run, warnings, failed)


# --- the run folder -------------------------------------------------------------------------------


def _run(dataset: DataSet, data_key: str, loaded: LoadedModel, config: PredictConfig) -> Run:
    return Run(
        data=data_key,
        model=loaded.header.name,
        sha256=loaded.sha256,
        settings=msgspec.json.decode(to_json(config)),  # equal to what is read from the file
        # On a set without categories, a track counts once.
        multi_class=loaded.header.config.every_likely_class and not dataset.class_agnostic,
        classes=matched_classes(
            loaded.header, dataset.categories, class_agnostic=dataset.class_agnostic
        ),
        version=version("vistool"),
    )


def _is_complete(folder: Path, video: AnnotatedVideo) -> bool:
    place = video_folder(folder, video.id)
    if not (place / META).exists() or (place / FAILURE).exists():
        return False
    meta = read_meta(place / META)
    return meta.complete and meta.length == video.length


def _failures(folder: Path, videos: Iterable[AnnotatedVideo]) -> dict[int, str]:
    undone = [video.id for video in videos if not _is_complete(folder, video)]
    return dict.fromkeys(undone, "was not run") | noted_failures(folder, undone)


def _joined(
    folder: Path, videos: Iterable[AnnotatedVideo], targets: Mapping[int, int], left_out: list[int]
) -> Iterator[TrackSegmentation]:
    """The results of all videos, with the data set's ids; repeated results are written once.

    Args:
        targets: the category of each class.
        left_out: the classes of results without a category are appended to it.
    """
    for video in videos:
        seen: set[int] = set()
        for result in iterate_results(video_folder(folder, video.id) / RESULTS):
            if result["category_id"] not in targets:
                left_out.append(result["category_id"])
                continue
            result["video_id"] = video.id
            result["category_id"] = targets[result["category_id"]]
            key = hash(msgspec.json.encode(result))
            if key not in seen:
                seen.add(key)
                yield result


# --- running --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """The folder of a run, and that of the data set's frames."""

    folder: Path
    frames: Path


class _Frames:
    """Reports progress in frames, over all videos of the data set."""

    def __init__(
        self,
        videos: Sequence[AnnotatedVideo],
        todo: Sequence[AnnotatedVideo],  # of this process
        on_progress: OnProgress,
    ) -> None:
        self._total = sum(video.length for video in videos)
        self._done = self._total - sum(video.length for video in todo)
        self._report = on_progress

    def within(self, video: AnnotatedVideo, frames: int) -> None:
        self._report(f"running the model: {video.name}", self._done + frames, self._total)

    def finish(self, video: AnnotatedVideo) -> None:
        self._done += video.length
        self._report(f"running the model: {video.name}", self._done, self._total)


def _run_video(
    job: PredictJob, place: _Place, video: AnnotatedVideo, on_frames: Callable[[int], None]
) -> None:
    """Write the video's results, or the reason of its failure, into its folder."""
    folder = video_folder(place.folder, video.id)
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run may have left files
    try:
        files = [frame_file(place.frames, name) for name in video.file_names]
        with open_frames(files) as reader:
            if reader.size != video.size:
                raise DataError(
                    f"{files[0]}: {reader.size.width}x{reader.size.height} pixels, the data set "
                    f"says {video.size.width}x{video.size.height}"
                )
            predict_opened(job, reader, folder, lambda _, done, __: on_frames(done))
    except (UsageError, WeightsError):
        raise
    except VistoolError as error:  # the other videos are still run
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / FAILURE) as temporary:
            temporary.write_text(f"{error}\n", encoding="utf-8", errors="backslashreplace")


def _run_in_processes(
    make_job: Callable[[], PredictJob],
    place: _Place,
    videos: Sequence[AnnotatedVideo],
    workers: int,
    progress: _Frames,
) -> None:
    """Run the longest videos first, so that all processes end at about the same time."""
    with _terminal_signals_ignored():  # inherited by the workers: the parent ends them
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),  # after a fork, torch may hang
            initializer=_begin_worker,
            initargs=(make_job, max(1, (os.cpu_count() or 1) // workers)),
        )
    try:
        with _terminal_signals_ignored():
            running: dict[Future[None], AnnotatedVideo] = {
                pool.submit(_run_in_worker, place, video): video
                for video in sorted(videos, key=lambda video: -video.length)
            }
        for future in as_completed(running):
            future.result()
            progress.finish(running[future])
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():  # they may be in the middle of a video
            child.terminate()
            child.join()
        _remove_incomplete(place.folder, videos)
        if isinstance(error, BrokenProcessPool):
            raise VistoolError(
                "a process that ran the model has died",
                hint="fewer --workers need less memory; finished videos are saved, and the same "
                "command runs only the others",
            ) from error
        raise
    pool.shutdown()


def _remove_incomplete(folder: Path, videos: Iterable[AnnotatedVideo]) -> None:
    """Remove the folders of videos that terminated processes were working on."""
    for video in videos:
        place = video_folder(folder, video.id)
        if place.exists() and not (place / META).exists() and not (place / FAILURE).exists():
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _terminal_signals_ignored() -> Iterator[None]:
    """Ignore Ctrl-C and the closing of the terminal."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in TERMINAL_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_job: PredictJob | None = None  # one per process


def _begin_worker(make_job: Callable[[], PredictJob], threads: int) -> None:
    global _job
    end_with_parent()
    torch.set_num_threads(threads)
    _job = make_job()


def _run_in_worker(place: _Place, video: AnnotatedVideo) -> None:
    assert _job is not None
    _run_video(_job, place, video, lambda _: None)
