"""Predict several sources, one after the other; one that fails does not stop the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from vistool.config import PredictConfig
from vistool.engine.device import choose_device
from vistool.engine.distributed import Processes
from vistool.engine.predict.job import PredictJob
from vistool.engine.predict.video import iterate, predict_opened
from vistool.engine.tracked_video import TrackedFrame, TrackedVideo
from vistool.engine.writers import (
    refuse_to_replace,
)
from vistool.errors import (
    IncompleteSourceError,
    PartialFailureError,
    UsageError,
    VistoolError,
    WeightsError,
)
from vistool.formats.files import new_run_folder, numbered
from vistool.formats.video.sources import source_name
from vistool.models.checkpoints.files import LoadedModel
from vistool.progress import OnProgress, silent


def stream_videos(
    model: LoadedModel | str,
    sources: Sequence[Path],
    config: PredictConfig,
    *,
    on_frame: Callable[[Path, TrackedFrame], None],
    on_warning: Callable[[str], None],
    on_failure: Callable[[Path, VistoolError], None],
) -> None:
    """Segment several sources, one after the other; hands on every frame as soon as it is final.

    Raises: as `predict_videos`.
    """
    job = PredictJob(model, config)
    failed: list[Path] = []
    incomplete: list[Path] = []
    for source in sources:
        with _or_note(source, len(sources), failed, on_failure):
            with (
                job.open(source) as reader,
                contextlib.closing(iterate(job, reader, job.segmenter())) as frames,
            ):
                for frame in frames:
                    on_frame(source, frame)
            for warning in reader.warnings:
                on_warning(warning)
            if reader.incomplete:
                incomplete.append(source)
    _raise_if_any(failed, incomplete, len(sources))


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


def _raise_if_any(failed: Sequence[Path], incomplete: Sequence[Path], total: int) -> None:
    if total == 1 and incomplete:
        raise IncompleteSourceError(
            f"{incomplete[0]}: the source is incomplete; what there is of it is done"
        )
    told = [
        f"{len(paths)} of {total} sources {what}: {', '.join(map(str, paths))}"
        for paths, what in ((failed, "failed"), (incomplete, "are incomplete"))
        if paths
    ]
    if told:
        raise PartialFailureError("; ".join(told))


def predict_videos(
    model: LoadedModel | str,
    sources: Sequence[Path],
    parent: Path,
    config: PredictConfig,
    *,
    exist_ok: bool = False,
    processes: Processes | None = None,
    on_progress: OnProgress = silent,
    on_done: Callable[[TrackedVideo, Path], None] | None = None,
    on_failure: Callable[[Path, VistoolError], None] | None = None,
) -> list[Path]:
    """Predict several sources, each into a folder below `parent` that is named after it.

    Args:
        exist_ok: write into a folder that is there already; else its name gets "-2", "-3"...
            Either way, every source has its own.
        processes: that share the sources, each calling this with all of them.
        on_done, on_failure: called after each source, in the process that had it; the former with
            the video and its folder.

    Returns: the folders of this process.
    Raises: the error of a single source, which is IncompleteSourceError where results are of a
        part of it; PartialFailureError if some of several failed or are incomplete; and at once
        what concerns all of them (UsageError, WeightsError).
    """
    names = [source_name(source) for source in sources]
    if exist_ok:
        names = _numbered(names)
        refuse_to_replace(sources, [parent / name for name in names])
    processes = processes or Processes(choose_device(config.device))
    job = PredictJob(model, msgspec.structs.replace(config, device=str(processes.device)))
    folders: list[Path] = []
    failed: list[Path] = []
    incomplete: list[Path] = []
    for number in processes.mine(range(len(sources))):
        source = sources[number]
        with _or_note(source, len(sources), failed, on_failure):
            with job.open(source) as reader:
                folder = new_run_folder(parent, names[number], exist_ok=exist_ok)
                video, folder = predict_opened(job, reader, folder, on_progress)
            folders.append(folder)
            if reader.incomplete:
                incomplete.append(source)
            if on_done:
                on_done(video, folder)
    # After all are done: the program that started the processes ends all when one fails.
    failed, incomplete = (
        [source for some in processes.gather(paths) for source in some]
        for paths in (failed, incomplete)
    )
    if failed or incomplete:
        processes.part()
    _raise_if_any(failed, incomplete, len(sources))
    return folders


def _numbered(names: Iterable[str]) -> list[str]:
    """The names, with "-2", "-3"... where one is there already."""
    taken: dict[str, None] = {}
    for name in names:
        taken[next(free for free in numbered(name) if free not in taken)] = None
    return list(taken)
